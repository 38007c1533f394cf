"""Frames in which a stream exceeds the law of float32, judged by the dense network in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from videoeff.cli.shared.dense import Dense
from videoeff.errors import VideoEffError, first_line
from videoeff.rounding import Doubled, NoFloat64, Rounding, flat, run_double
from videoeff.runtime.dense import channels_last

if TYPE_CHECKING:
    from videoeff.runtime.streaming_module import StreamingModule


class Float64:
    """Computes frames of a stream's dense model once more in float64.

    Copies are made when the first frame asks for them.

    Args:
        stream: the stream.
        model: the model that it was made of, if that is compared with too.

    Attributes:
        graph: what it says of the outputs, or of the layers where a model was captured in parts.
        model: what it says of the outputs against the model itself.
    """

    def __init__(self, stream: StreamingModule, model: nn.Module | None = None) -> None:
        self.stream, self._model = stream, model
        self.graph, self.model = Rounding(), Rounding()
        self._twin: Dense | None = None
        self._doubled: Doubled | None = None

    def outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any, eager: Any) -> None:
        """A frame's outputs beside the dense graph's."""
        if not self.graph.exceeds(flat(found), flat(eager)):
            return
        try:
            exact = flat(self._exact(args, kwargs))
            again = flat(Dense(self.stream)(*channels_last((args, kwargs))))
        except NoFloat64 as error:
            self.graph.unknown = str(error)
        else:
            self.graph.add(flat(found), flat(eager), [flat(eager), again], exact)

    def layers(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        found: Mapping[str, Tensor],
        eager: Mapping[str, Tensor],
    ) -> None:
        """A frame's layers that lie further apart than the law.

        Args:
            args: of the model's call.
            kwargs: of the model's call.
            found: the stream's values by layer name.
            eager: the dense graph's values of the same layers.
        """
        if not self.graph.exceeds([found[name] for name in eager], list(eager.values())):
            return
        exact: dict[str, Tensor] = {}
        again: dict[str, Tensor] = {}

        def keep(into: dict[str, Tensor]) -> Any:
            return lambda name, value: into.update({name: value.clone()}) if name in eager else None

        try:
            self._exact(args, kwargs, keep(exact))
            last_args, last_kwargs = channels_last((args, kwargs))
            Dense(self.stream)(last_args, last_kwargs, keep(again))
        except NoFloat64 as error:
            self.graph.unknown = str(error)
            return
        for name, value in eager.items():
            self.graph.add_one(name, found[name], [value, again.get(name, value)], exact.get(name))

    def against_model(self, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any, eager: Any) -> None:
        """A frame's outputs beside the model's own."""
        if self._model is None or not self.model.exceeds(flat(found), flat(eager)):
            return
        try:
            self._doubled = self._doubled or Doubled(self._model)
            again, exact = self._doubled(args, kwargs)
        except NoFloat64 as error:
            self.model.unknown = str(error)
        else:
            self.model.add(flat(found), flat(eager), again, exact)

    def _exact(self, args: tuple[Any, ...], kwargs: dict[str, Any], watch: Any = None) -> Any:
        if self._twin is None:
            self._twin = Dense(_in_float64(self.stream))
        twin = self._twin
        return run_double(lambda a, k: twin(a, k, watch), args, kwargs)


def _in_float64(stream: StreamingModule) -> StreamingModule:
    carried = [c.name for e in stream.engines.values() for c in e.program.carried]
    carried += stream.body.outside.names
    if carried:
        raise NoFloat64(f"the model carries {carried[0]!r} from frame to frame")
    try:
        return copy.deepcopy(stream).to(torch.float64)
    except VideoEffError as error:
        raise NoFloat64(first_line(error)) from error
