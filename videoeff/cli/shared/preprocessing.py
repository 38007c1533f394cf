"""The options that say how frames become a model's input, for the commands that take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from videoeff.cli.shared.output import number_row

if TYPE_CHECKING:
    from videoeff.ir.program import Program
    from videoeff.runtime.streaming_module import StreamingModule
    from videoeff.video.preprocess import Preprocess

Function = TypeVar("Function", bound=Callable[..., Any])

FITS = ("stretch", "letterbox", "letterbox-top-left")  # video.fit's: naming them here imports no NumPy
RESIZES = ("torch-bilinear-antialias", "torch-bilinear-antialias-uint8")  # video.preprocess's, as above

_OPTIONS = (
    click.option(
        "--scale",
        type=float,
        help="Factor on the 8-bit values.  [default: 1/255; 1 where the model takes uint8]",
    ),
    click.option(
        "--mean",
        callback=number_row,
        metavar="M...",
        help="Subtracted after --scale: a number for each channel.",
    ),
    click.option("--std", callback=number_row, metavar="S...", help="Divided by after --mean."),
    click.option("--bgr", is_flag=True, help="The model expects blue first."),
    click.option(
        "--fit",
        type=click.Choice(FITS),
        default=FITS[0],
        show_default=True,
        help="Frames of other proportions: fill the input, or keep them and pad (YOLO: letterbox, YOLOX: "
        "letterbox-top-left).",
    ),
    click.option(
        "--pad",
        type=click.IntRange(0, 255),
        default=114,
        show_default=True,
        help="Grey level of a letterbox's padding.",
    ),
    click.option(
        "--resize",
        type=click.Choice(RESIZES),
        default=RESIZES[0],
        show_default=True,
        help="How frames are resized; with -uint8 to whole grey levels, in a third to a fifth of the time.",
    ),
    click.option(
        "--channels",
        type=click.Choice(("1", "3", "4")),
        help="Grey, colours, or colours and opacity.  [default: what the model takes]",
    ),
    click.option("--uint8", is_flag=True, help="The model takes whole grey levels; a .pt2 says so itself."),
)


def preprocess_options(function: Function) -> Function:
    """The options of :class:`Look`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class Look:
    """The values of the preprocessing options, before the model is known.

    Attributes:
        scale: factor on the grey levels, None for the usual one.
        mean: as in :class:`~videoeff.video.preprocess.Preprocess`.
        std: as there.
        bgr: as there.
        fit: as there.
        pad: as there.
        resize: as there.
        channels: of the model, as text; None to let the model say.
        uint8: the model takes uint8.
    """

    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool = False
    fit: str = FITS[0]
    pad: int = 114
    resize: str = RESIZES[0]
    channels: str | None = None
    uint8: bool = False

    @classmethod
    def take(cls, options: dict[str, Any]) -> Look:
        """Take the options of :func:`preprocess_options` out of a command's."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})

    def preprocess(
        self,
        channels: int,
        uint8: bool,
        size: tuple[int, int] | None,
        decoder: str = "",
        *,
        exported: bool = False,
    ) -> Preprocess:
        """The preprocessing for a model.

        Args:
            channels: that it takes, if ``--channels`` does not say otherwise.
            uint8: it takes uint8.
            size: (H, W) of its input.
            decoder: to record.
            exported: the model is an exported program, which takes this and nothing else.

        Raises:
            ArtifactError: the values do not go with the model or with one another.
        """
        from videoeff.errors import ArtifactError
        from videoeff.video.preprocess import Preprocess

        if exported and self.channels not in (None, str(channels)):
            raise ArtifactError(
                f"--channels {self.channels}: the exported program takes {channels}; leave it out"
            )
        if exported and self.uint8 and not uint8:
            raise ArtifactError("--uint8: the exported program takes fractions; leave it out")
        whole = uint8 or self.uint8
        return Preprocess(
            size,
            self.scale if self.scale is not None else 1.0 if whole else 1 / 255,
            self.mean or None,
            self.std or None,
            self.bgr,
            self.resize,
            decoder=decoder,
            fit=self.fit,
            pad=self.pad,
            channels=channels if self.channels is None else int(self.channels),
            dtype="uint8" if whole else "float32",
        )


def notes_on(preprocess: Preprocess, stream: StreamingModule | None = None) -> tuple[str, ...]:
    """What looks like a mistake in a preprocessing, and beside a model that prepares its input itself."""
    found = [f"check the preprocessing: {doubt}" for doubt in preprocess.doubts()]
    if stream is not None and preprocess.dtype == "float32":
        highest = 255.0 * abs(preprocess.scale)
        for engine in stream.engines.values():
            own = _own_preparation(engine.program, highest)
            if own:
                found.append(f"check the preprocessing: the model {own}; does it expect --scale 1?")
                break
    return tuple(found)


#: A model that divides by so much, or subtracts so much more than it is given, expects grey levels.
_MUCH = 100.0
_BEYOND = 8.0


def _own_preparation(program: Program, highest: float) -> str | None:
    """What a graph does to its input first that only makes sense for grey levels 0..255; None if nothing.

    Args:
        program: the graph.
        highest: the highest value the input is given.
    """
    import torch

    from videoeff.ir.markers import is_cache
    from videoeff.ops.base import op_name

    if highest >= _MUCH:
        return None
    passing = {"to", "_to_copy", "clone", "contiguous", "alias", "detach", "view", "reshape"}
    frames = [n for n in program.nodes if n.op == "placeholder"]
    while frames:
        node = frames.pop()
        for user in node.users:
            name = op_name(user)
            if is_cache(user) or name in passing:
                frames.append(user)
                continue
            if name not in ("div", "mul", "sub") or len(user.args) < 2 or user.args[0] is not node:
                continue
            value = _constant(program, user.args[1])
            if value is None or not isinstance(value, torch.Tensor) or not value.numel():
                continue
            largest, smallest = float(value.abs().max()), float(value.abs().min())
            if name == "div" and smallest >= _MUCH:
                return f"divides its input by {largest:.4g} itself"
            if name == "mul" and 0 < largest <= 1 / _MUCH:
                return f"multiplies its input by {largest:.4g} itself"
            if name == "sub" and smallest > _BEYOND * highest:
                return f"subtracts {largest:.4g} from its input, which reaches {highest:.3g}"
    return None


def _constant(program: Program, value: Any) -> Any:
    """A number or a stored tensor of a graph as a tensor; None for what is computed."""
    import torch
    from torch import fx

    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.tensor(float(value))
    if isinstance(value, fx.Node) and value.op == "get_attr":
        found: Any = program.module
        for part in str(value.target).split("."):
            found = getattr(found, part, None)
        return found
    return None
