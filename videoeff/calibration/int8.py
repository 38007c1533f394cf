"""The control int8: the dense network after post-training quantisation, calibrated on frames of the clip."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videoeff.calibration.controls import Control, Feed, Frame, Network
from videoeff.calibration.openvino_files import Array, Compiled
from videoeff.calibration.quantise import INPUTS, INT8, NETWORK
from videoeff.calibration.simulated import Simulated
from videoeff.capture.workers import run_worker
from videoeff.errors import BackendError, first_line
from videoeff.ir.program import Program
from videoeff.runtime.dense import Step, run_plainly
from videoeff.runtime.streaming_module import StreamingModule

#: Frames of the clip to calibrate on, at most.
FRAMES = 100

PACKAGES = ("openvino", "nncf")


class Int8(Control):
    """The dense network in int8.

    It is NNCF's post-training quantisation run by OpenVINO where both are installed and can serve, else a
    simulation of our own, which the label says.

    Args:
        stream: whose network it is.
        feed: makes the call of a frame.
        frames: of the clip, to calibrate on.
        threads: OpenVINO may use; as many as PyTorch if left out.
        simulate: simulate even where the packages are installed.
        origin: what the frames are, for the note.
    """

    def __init__(
        self,
        stream: StreamingModule,
        feed: Feed,
        frames: Iterable[Frame],
        threads: int | None = None,
        simulate: bool = False,
        origin: str = "of the clip",
    ) -> None:
        simulated = Simulated()
        reason = "as asked" if simulate else missing()
        recorder = None if reason else _Recorder(simulated)
        with tempfile.TemporaryDirectory(prefix="videoeff-int8-") as folder:
            learning = Network(stream, feed, simulated if recorder is None else recorder.begin(Path(folder)))
            count = sum(1 for _ in map(learning, frames))
            if not count:
                raise BackendError("int8 has no frames to calibrate on; give a clip of at least one frame")
            simulated.calibrating = False
            run = None
            if recorder is not None:
                try:
                    run = recorder.quantised(threads or torch.get_num_threads())
                except BackendError as error:
                    reason = str(error)
        self.simulated = run is None
        self.label = "int8, simulated" if run is None else "int8 (OpenVINO)"
        self.note = f"int8 was calibrated on {count} frame(s) {origin}"
        if run is None:
            self.note += f"; it is a simulation of our own, not a runtime ({reason})"
        self._timed = run is not None and stream.device.type == "cpu"
        self._network = Network(stream, feed, simulated if run is None else run)

    def outputs(self, number: int, frame: Frame, dense: Any) -> Any:
        """Those of the quantised network."""
        return self._network(frame)

    def ms(self, dense: Sequence[float]) -> list[float]:
        """Its own time; none of a simulation."""
        return self._network.ms if self._timed else []


def missing() -> str:
    """Which packages are not installed, "" if all are there."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed; pip install 'videoeff[bench]'" if absent else ""


@dataclass
class _Graph:
    """A Program seen on calibration frames.

    Attributes:
        program: the Program.
        folder: where its inputs are written.
        example: its inputs in one frame.
        template: its outputs in one frame, of which OpenVINO returns the tensors.
        count: frames seen.
    """

    program: Program
    folder: Path
    example: list[Tensor]
    template: tuple[Any, ...]
    count: int = 0

    def add(self, inputs: Sequence[Tensor]) -> None:
        """Write one frame's inputs, raw, one behind the other."""
        for number, tensor in enumerate(inputs):
            with (self.folder / f"input_{number}.raw").open("ab") as file:
                file.write(_array(tensor).tobytes())
        self.count += 1

    def finish(self) -> None:
        """Write what the bytes are."""
        forms = [(str(a.dtype), [self.count, *a.shape]) for a in map(_array, self.example)]
        (self.folder / INPUTS).write_text(json.dumps(forms), encoding="utf-8")


@dataclass
class _Recorder:
    """Writes down what flows into the graphs on calibration frames, and quantises them with NNCF.

    Attributes:
        simulated: learns its ranges beside, for where this fails.
        graphs: by the name of the engine.
    """

    simulated: Simulated
    graphs: dict[str, _Graph] = field(default_factory=dict)
    folder: Path = Path()

    def begin(self, folder: Path) -> _Recorder:
        """Write into a folder from now on."""
        self.folder = folder
        return self

    def __call__(
        self, name: str, program: Program, flat: Sequence[Tensor], carried: Sequence[Tensor]
    ) -> Step:
        """One frame of a Program, exactly."""
        outputs, after = self.simulated(name, program, flat, carried)
        inputs = [*flat, *carried]
        if name not in self.graphs:
            folder = self.folder / str(len(self.graphs))
            folder.mkdir()
            self.graphs[name] = _Graph(program, folder, inputs, (*outputs, *after))
        self.graphs[name].add(inputs)
        return outputs, after

    def quantised(self, threads: int) -> _Quantised:
        """The graphs in int8.

        Raises:
            BackendError: one cannot be exported, quantised or read.
        """
        return _Quantised({name: self._one(name, graph, threads) for name, graph in self.graphs.items()})

    def _one(self, name: str, graph: _Graph, threads: int) -> tuple[Compiled, tuple[Any, ...]]:
        where = f"{name}: " if name else ""
        graph.finish()
        try:
            module = _OnlyTensors(graph.program.clone().module).eval().cpu().float()
            example = tuple(torch.from_numpy(_array(t)) for t in graph.example)
            with torch.no_grad():
                exported = torch.export.export(module, example, strict=False)
            torch.export.save(exported, graph.folder / NETWORK)
        except Exception as error:
            raise BackendError(f"{where}it could not be exported: {first_line(error)}") from error
        run_worker("videoeff.calibration.quantise", graph.folder, threads, where)
        compiled = Compiled(graph.folder / INT8, len(example), threads)
        expected = [list(v.shape) for v in graph.template if isinstance(v, Tensor)]
        found = [list(v.shape) for v in compiled([_array(t) for t in example])]
        if found != expected:
            raise BackendError(f"{where}OpenVINO returns {found}, and the network {expected}")
        return compiled, graph.template


class _OnlyTensors(nn.Module):
    """A graph without the outputs that are no tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The tensors among its outputs."""
        return tuple(v for v in self.module(*inputs) if isinstance(v, Tensor))


@dataclass
class _Quantised:
    """Computes Programs by OpenVINO.

    Attributes:
        graphs: the compiled network and its outputs in one frame, by the name of the engine.
    """

    graphs: dict[str, tuple[Compiled, tuple[Any, ...]]]

    def __call__(
        self, name: str, program: Program, flat: Sequence[Tensor], carried: Sequence[Tensor]
    ) -> Step:
        """One frame of a Program; one that calibration never called is computed as it is."""
        if name not in self.graphs:
            return run_plainly(name, program, flat, carried)
        compiled, template = self.graphs[name]
        arrays = iter(compiled([_array(t) for t in (*flat, *carried)]))
        return program.parted(
            tuple(
                torch.from_numpy(next(arrays)).to(v.device, v.dtype) if isinstance(v, Tensor) else v
                for v in template
            )
        )


def _array(tensor: Tensor) -> Array:
    """The values as OpenVINO takes them; half precision as float32."""
    kept = tensor.detach().cpu().contiguous()
    return (kept.float() if kept.is_floating_point() and kept.itemsize < 4 else kept).numpy()
