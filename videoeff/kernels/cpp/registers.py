"""Gives the instructions of an epilogue their registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoeff.kernels.cpp.abi import ARG, MAX_EPI, MAX_REGS, EpiOp
from videoeff.kernels.region_spec.values import Instruction, Unserved

_BINARY = {
    EpiOp.ADD, EpiOp.SUB, EpiOp.MUL, EpiOp.DIV, EpiOp.MAXIMUM, EpiOp.MINIMUM, EpiOp.PRELU,
    EpiOp.ROUND,
}  # fmt: skip


@dataclass(frozen=True)
class Epilogue:
    """An epilogue as the native side takes it.

    Attributes:
        code: (op, dst, a, b, p, q) of each instruction.
        widths: channels of the widest value in each register, 0 for one that is not used.
    """

    code: tuple[tuple[int, int, int, int, float, float], ...]
    widths: tuple[int, ...]


def operands(instruction: Instruction) -> tuple[int, ...]:
    """What an instruction reads, arguments included."""
    if instruction.op in _BINARY or instruction.op == EpiOp.LINEAR:
        return (instruction.a, instruction.b)
    return (instruction.a,)


def assign(code: Sequence[Instruction | None], produced: int, channels: int, exact: bool) -> Epilogue:
    """Registers for instructions of which the last one gives the value.

    Args:
        code: the instructions; None stands for the producer, whose result lies in register 0.
        produced: channels of the producer, 0 if there is none.
        channels: channels of the value.
        exact: whether register 0 must not be wider than the producer's result.

    Raises:
        Unserved: there are not enough registers, or too many instructions.
    """
    widths = _widths(code, produced, channels)
    last: dict[int, int] = {}
    for index, instruction in enumerate(code):
        for read in operands(instruction) if instruction is not None else ():
            if read >= 0:
                last[read] = index
    held: list[int | None] = [None] * MAX_REGS  # the value in each register
    wide, result = [0] * MAX_REGS, []
    if None in code:
        held[0] = code.index(None)
        wide[0] = produced
    final = len(code) - 1
    for index, instruction in enumerate(code):
        if instruction is None:
            continue
        places = {v: r for r, v in enumerate(held) if v is not None}
        reads = [r for r in operands(instruction) if r >= 0]
        for read in reads:
            if last[read] == index:
                held[places[read]] = None
        taken = {places[instruction.a]} if instruction.op == EpiOp.LINEAR else set()
        at = _choose(held, wide, taken, widths[index], [places[r] for r in reads], index == final)
        held[at] = index
        wide[at] = max(wide[at], widths[index])
        a, *rest = (places[x] if x >= 0 else ARG + (-1 - x) for x in operands(instruction))
        result.append((int(instruction.op), at, a, rest[0] if rest else 0, instruction.p, instruction.q))
    if held[0] != final:
        result.append((int(EpiOp.COPY), 0, held.index(final), 0, 0.0, 0.0))
        wide[0] = max(wide[0], channels)
    if exact and wide[0] > produced:
        raise Unserved("its result has more channels than its convolution")
    if len(result) > MAX_EPI:
        raise Unserved(f"{len(result)} instructions in one region, at most {MAX_EPI} are served")
    return Epilogue(tuple(result), tuple(wide))


def _widths(code: Sequence[Instruction | None], produced: int, channels: int) -> list[int]:
    """Channels of every value; a broadcast one takes as many as its reader."""
    widths = [produced if i is None else i.width for i in code]
    if widths[-1] == 0:
        widths[-1] = channels
    if widths[-1] != channels:
        raise Unserved(f"it computes {widths[-1]} channels for a value of {channels}")
    for index in range(len(code) - 1, -1, -1):
        instruction = code[index]
        if instruction is None:
            continue
        widths[index] = widths[index] or channels
        for read in operands(instruction):
            if read >= 0 and widths[read] == 0:
                widths[read] = widths[index]
    return widths


def _choose(
    held: Sequence[int | None],
    wide: Sequence[int],
    taken: set[int],
    width: int,
    reads: Sequence[int],
    final: bool,
) -> int:
    free = [r for r, value in enumerate(held) if value is None and r not in taken]
    if not free:
        raise Unserved(f"more than {MAX_REGS} values at once")
    if final and 0 in free:
        return 0
    same = [r for r in free if wide[r] == width]
    for preferred in ([r for r in same if r in reads], same, [r for r in free if wide[r] == 0], free):
        if preferred:
            return preferred[0]
    return free[0]
