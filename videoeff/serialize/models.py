"""Models by reference.

``torchvision:NAME``, ``timm:NAME``, ``package.module:callable`` or ``file.py:callable``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from videoeff.errors import ArtifactError, CaptureError

TRUSTED = ("torchvision", "timm")


def build(reference: str) -> nn.Module:
    """The model a reference names, with random weights, in evaluation mode.

    ``package.module:callable`` and ``file.py:callable`` run code of the user's.

    Raises:
        CaptureError: the reference does not resolve, or what it names makes no module.
    """
    kind, colon, name = reference.rpartition(":")
    if not colon or not kind or not name:
        raise CaptureError(
            f"--model {reference!r}: write torchvision:NAME, timm:NAME, package.module:callable or "
            "file.py:callable"
        )
    if kind == "torchvision":
        made = _torchvision(name)
    elif kind == "timm":
        made = _timm(name)
    else:
        made = _call(_load_file(kind) if kind.endswith(".py") else _load_module(kind), name, reference)
    if not isinstance(made, nn.Module):
        raise CaptureError(f"{reference}: made a {type(made).__name__}, expected a torch.nn.Module")
    return made.eval()


def build_trusted(reference: str, where: str) -> nn.Module:
    """The model an artifact names, if it comes from a library that is trusted by name.

    Raises:
        ArtifactError: it names other code, which is not run because a file says so.
    """
    kind = reference.partition(":")[0]
    if kind not in TRUSTED:
        raise ArtifactError(
            f"{where}: needs the model {reference!r}, whose code is not run because a file asks for it; "
            "build it yourself: videoeff.load(path, model=model)"
        )
    try:
        return build(reference)
    except CaptureError as error:
        raise ArtifactError(f"{where}: {error}") from error


def without_weights(name: str) -> dict[str, Any]:
    """The options with which torchvision builds a model of a name, and downloads nothing."""
    from torchvision.models import get_model_builder

    options: dict[str, Any] = {"weights": None}
    parameters = inspect.signature(get_model_builder(name)).parameters
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return options


def _torchvision(name: str) -> Any:
    from torchvision.models import get_model, list_models

    if name not in list_models():
        close = [n for n in list_models() if name.split("_")[0] in n][:6]
        raise CaptureError(f"torchvision has no model {name!r}; similar: {', '.join(close) or 'none'}")
    return get_model(name, **without_weights(name))


def _timm(name: str) -> Any:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise CaptureError("timm is not installed; run pip install 'videoeff[timm]'") from error
    architecture = name.partition(".")[0]  # what follows names weights, as in resnet50.a1_in1k
    if not timm.is_model(architecture):
        raise CaptureError(f"timm has no model {name!r}; timm.list_models('*{name[:6]}*') finds similar ones")
    return timm.create_model(architecture, pretrained=False)


def _load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CaptureError(
            f"{name}: cannot be imported ({error}); is it installed and on the path?"
        ) from error


def _load_file(path: str) -> Any:
    source = Path(path)
    if not source.is_file():
        raise CaptureError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"videoeff_user_{source.stem}", source)
    if spec is None or spec.loader is None:
        raise CaptureError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CaptureError(f"{path}: failed while it was run: {type(error).__name__}: {error}") from error
    return module


def _call(module: Any, name: str, reference: str) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        raise CaptureError(f"{reference}: there is no callable {name!r} in it")
    if isinstance(function, nn.Module):
        return function
    try:
        return function()
    except Exception as error:
        raise CaptureError(f"{reference}: failed when called: {type(error).__name__}: {error}") from error
