"""Capture: a model and an example call become a Program of ATen operators.

``torch.export`` is the front end. Its graph is brought into one canonical form: static shapes, no
in-place operators, no operators with a list of results, what does not depend on the frame computed once.
"""

from __future__ import annotations

import contextlib
import io
import logging
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from videoeff.capture.autocast import Autocast
from videoeff.capture.canonical import to_program
from videoeff.capture.static_sizes import require_static
from videoeff.errors import CaptureError, first_line
from videoeff.ir.program import Program


def capture(
    model: nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str = "",
) -> Program:
    """Export ``model`` for one example call.

    Args:
        model: a module in evaluation mode, an ``ExportedProgram`` or a ``GraphModule``.
        args: positional arguments of the call; tensors with the batch (the streams) first.
        kwargs: keyword arguments of the call.
        name: what to call the model in reports; its class by default.

    Returns:
        A captured Program, annotated.

    Raises:
        CaptureError: the model is in training mode or cannot be exported.
    """
    kwargs = dict(kwargs or {})
    name = name or _name_of(model)
    module: nn.Module = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    if not isinstance(model, torch.export.ExportedProgram):
        require_eval(model)
    around = Autocast.now()
    exported = _export(module, tuple(args), kwargs, name)
    with Autocast().entered():  # its casts become operators
        require_static(exported, name)
        program = to_program(exported, tuple(args), kwargs, name, around)
        if program is None:
            exported = _functional(exported, name)
            program = to_program(exported, tuple(args), kwargs, name, around)
            if program is None:
                raise CaptureError(
                    f"{name}: in-place writes remain after functionalisation; report the model"
                )
    return program


def as_module(model: torch.export.ExportedProgram, name: str) -> nn.Module:
    """The modules of an exported model, so that those which can be are captured one by one.

    Raises:
        CaptureError: they cannot be made out.
    """
    with quiet():
        try:
            module = torch.export.unflatten(model)
        except Exception as error:
            first = first_line(error)
            raise CaptureError(f"{name}: its modules cannot be told from the export: {first}") from error
    for part in module.modules():
        part.training = False  # as exported; their own eval() does not reach all of them
        for node in getattr(part, "graph", fx.Graph()).nodes:
            node.meta = {}  # what the export derived of shapes cannot be copied
    return module


def require_eval(model: nn.Module) -> None:
    """Raise :class:`CaptureError` if a part of the model behaves as in training.

    A graph as exporters leave it has no modes, and its ``eval()`` raises: of one only its layers are asked.
    """
    graph = isinstance(model, fx.GraphModule)
    for path, module in model.named_modules():
        kind = type(module).__name__
        whole = not path and not graph
        if module.training and ("Norm" in kind or "Dropout" in kind or "drop" in kind.lower() or whole):
            where = path or "the model"
            raise CaptureError(f"{where} ({kind}) is in training mode: call model.eval() before converting")


def _name_of(model: Any) -> str:
    if isinstance(model, torch.export.ExportedProgram):
        return "exported"
    return type(model).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch.export prints and logs about a model it declines off the terminal."""
    logger = logging.getLogger("torch")
    level, children = logger.level, [logging.getLogger(n) for n in logging.root.manager.loggerDict]
    children = [c for c in children if c.name.startswith("torch") and not c.disabled]
    sink = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        for child in children:
            child.disabled = True
        try:
            yield
        finally:
            logger.setLevel(level)
            for child in children:
                child.disabled = False


def _functional(exported: torch.export.ExportedProgram, name: str) -> torch.export.ExportedProgram:
    """The same program without in-place operators; buffers that it writes become outputs."""
    with quiet():
        try:
            functional: torch.export.ExportedProgram = exported.run_decompositions({})
            return functional
        except Exception as error:
            first = first_line(error)
            raise CaptureError(f"{name}: its in-place writes cannot be made pure: {first}") from error


def _export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
) -> torch.export.ExportedProgram:
    with quiet(), torch.no_grad():
        try:
            return torch.export.export(module, args, kwargs, strict=False)
        except Exception as error:
            first = textwrap.shorten(first_line(error), 200, placeholder=" ...")
            raise CaptureError(f"{name}: torch.export could not trace it: {first}") from error
