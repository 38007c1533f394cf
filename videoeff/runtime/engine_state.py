"""A copy of an engine's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from videoeff.errors import StateError


@dataclass(frozen=True)
class EngineState:
    """A copy of an engine's state, as ``snapshot`` makes it.

    Attributes:
        tensors: the stream's buffers by name.
        fresh: for each stream, whether its next frame is frame 1.
        carried: the buffers that the model itself carries from frame to frame, by path.
    """

    tensors: Mapping[str, Tensor]
    fresh: tuple[bool, ...]
    carried: Mapping[str, Tensor] = field(default_factory=dict)

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Whether it is of buffers of these names and shapes.

        Raises:
            StateError: it is of another network, size or set of thresholds.
        """
        if set(shapes) != set(self.tensors):
            odd = sorted(set(shapes) ^ set(self.tensors))[0]
            raise StateError(
                f"the snapshot does not fit this stream: buffer {odd!r} is in only one of them; restore it "
                "into a stream of the same network, with thresholds on the same layers"
            )
        for name, tensor in self.tensors.items():
            if tuple(tensor.shape) != shapes[name]:
                raise StateError(
                    f"the snapshot does not fit this stream: {name} is {list(tensor.shape)}, "
                    f"here {list(shapes[name])}; restore it into a stream of the same size and batch"
                )
