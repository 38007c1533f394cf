"""The contenders, as a worker process runs them: get ready, take a picture, run, give outputs."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoeff.bench import network
from videoeff.bench.exports import int8_file, onnx_file, openvino_file, quantised_file
from videoeff.bench.spec import (
    CLIP_INPUT,
    COMPILE,
    EAGER,
    ONNXRUNTIME,
    OPENVINO,
    OPENVINO_BF16,
    OPENVINO_INT8,
    STREAM,
    STREAM_BF16,
    STREAM_INT8,
    Job,
)
from videoeff.errors import BackendError
from videoeff.kernels.cpp.plan import NativePlan
from videoeff.rounding import Doubled, NoFloat64

if TYPE_CHECKING:
    from videoeff.passes.base import Pass

Array = NDArray[Any]


class Runner(abc.ABC):
    """One contender.

    Args:
        job: what to run. Getting ready happens in the constructor; an exception is the reason why not.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.notes: dict[str, Any] = {}

    def feed(self, picture: Array) -> Any:
        """A picture (C, H, W) as this runtime likes it; not timed."""
        return torch.from_numpy(picture[None]).contiguous(memory_format=torch.channels_last)

    @abc.abstractmethod
    def run(self, fed: Any) -> Any:
        """One frame; timed."""

    def outputs(self, returned: Any) -> list[Array]:
        """What :meth:`run` returned, as arrays."""
        return [v.detach().contiguous().numpy() for v in returned]

    def in_float64(self, fed: Any) -> dict[str, list[Array]]:
        """What the dense network gives for a frame in float64, and eager PyTorch beside it; not timed.

        Returns:
            Outputs as arrays: ``exact`` in float64, ``eager`` and ``last`` in float32, the maps in the
            default memory format and with their channels last.

        Raises:
            BackendError: this contender does not compute in float64, or the network cannot.
        """
        raise BackendError("only eager PyTorch computes in float64")

    def begin(self) -> None:  # noqa: B027 - nothing to do for most
        """Called after the untimed frames of a turn."""

    def end(self) -> dict[str, Any]:
        """Called after the timed frames of a turn; what to report with the times."""
        return {}

    def configure(self, options: Mapping[str, Any]) -> None:  # noqa: B027 - nothing to do for most
        """Change thresholds; nothing for dense runtimes."""


class Eager(Runner):
    """PyTorch as it is: channels last, batch norms folded."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        example = network.example(job)
        model, count = network.folded(network.load(job), example)
        self.model: Callable[..., Any] = model.to(memory_format=torch.channels_last)
        self.notes["batch_norms_folded"] = count
        self._doubled: Doubled | None = None

    def run(self, fed: Any) -> Any:
        """One frame."""
        with torch.inference_mode():
            return self.model(fed)

    def in_float64(self, fed: Any) -> dict[str, list[Array]]:
        """The network as it is, its batch norms not folded."""
        try:
            if self._doubled is None:
                loaded = network.load(self.job)
                model = loaded.module() if isinstance(loaded, torch.export.ExportedProgram) else loaded
                self._doubled = Doubled(model)
            (eager, last), exact = self._doubled((fed.contiguous(),))
        except NoFloat64 as error:
            raise BackendError(str(error)) from error
        found = {"exact": exact, "eager": eager, "last": last}
        return {name: [v.contiguous().numpy() for v in values] for name, values in found.items()}


class Compiled(Eager):
    """``torch.compile`` with freezing, channels last."""

    def __init__(self, job: Job) -> None:
        import torch._inductor.config as config

        config.freezing = True
        super().__init__(job)
        self.model = torch.compile(self.model, dynamic=False)
        self.run(network.example(job))
        from torch._dynamo.utils import counters

        self.notes["graph_breaks"] = sum(counters["graph_break"].values())

    def run(self, fed: Any) -> Any:
        """One frame."""
        with torch.no_grad():
            return self.model(fed)


class OnnxRuntime(Runner):
    """ONNX Runtime on the CPU, all optimisations on."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        import onnxruntime as ort

        path = onnx_file(job)
        options = ort.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Its threads spin within a run, as by default, and not into the next contender's turn.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.entry = self.session.get_inputs()[0].name

    def feed(self, picture: Array) -> Any:
        """A picture as an array (1, C, H, W)."""
        return {self.entry: np.ascontiguousarray(picture[None])}

    def run(self, fed: Any) -> Any:
        """One frame."""
        return self.session.run(None, fed)

    def outputs(self, returned: Any) -> list[Array]:
        """They are arrays already."""
        return [np.asarray(v) for v in returned]


class OpenVino(Runner):
    """OpenVINO on the CPU, float32, tuned for latency."""

    precision = "f32"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        import openvino

        core = openvino.Core()
        if self.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError("this processor has no bfloat16 that OpenVINO uses")
        path = self.file()
        options = {
            "INFERENCE_NUM_THREADS": job.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        compiled = core.compile_model(str(path), "CPU", options)
        self.request = compiled.create_infer_request()
        self.count = len(compiled.outputs)

    def file(self) -> Path:
        """The network in OpenVINO's own format."""
        return openvino_file(self.job)

    def feed(self, picture: Array) -> Any:
        """A picture as an array (1, C, H, W)."""
        return np.ascontiguousarray(picture[None])

    def run(self, fed: Any) -> Any:
        """One frame."""
        return self.request.infer({0: fed}, share_inputs=True, share_outputs=True)

    def outputs(self, returned: Any) -> list[Array]:
        """Copies, since the next frame overwrites them."""
        return [np.array(returned[i]) for i in range(self.count)]


class OpenVinoBf16(OpenVino):
    """OpenVINO as it chooses by itself on a processor with bfloat16."""

    precision = "bf16"


class OpenVinoInt8(OpenVino):
    """OpenVINO after NNCF's post-training quantisation to int8; what stays unquantised is float32."""

    def file(self) -> Path:
        """The quantised network."""
        path, self.notes["calibration_frames"] = int8_file(self.job)
        return path


class Stream(Runner):
    """videoeff."""

    #: What ``convert`` makes of the network first.
    precision: str | None = None

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        import videoeff

        model = self.model()
        begin = time.perf_counter()
        example = network.example(job)
        self.stream = videoeff.convert(model, example, name=job.name, precision=self.precision)
        engines = self.stream.engines.values()
        self.notes |= {
            "convert_seconds": time.perf_counter() - begin,
            "state_bytes": self.stream.report().state_bytes,
            "convolution_output_bytes": network.convolution_bytes([e.program for e in engines]),
            "ops": sum(len(e.plan.instructions) for e in engines),
            "macs": self.stream.report().macs["dense"],
            "kernels": sorted({i.kernel for e in engines for i in e.plan.instructions}),
        }

    def model(self) -> torch.nn.Module | torch.export.ExportedProgram:
        """The network."""
        return network.load(self.job)

    def run(self, fed: Any) -> Any:
        """One frame."""
        return self.stream(fed)

    def outputs(self, returned: Any) -> list[Array]:
        """As arrays; an exported program may return one tensor alone."""
        values = torch.utils._pytree.tree_leaves(returned)
        return super().outputs([v for v in values if isinstance(v, Tensor)])

    def begin(self) -> None:
        """Count from here."""
        self.stream.clear_report()
        self._native_ns()

    def end(self) -> dict[str, Any]:
        """The work of a frame handed out, and its time inside the native plans by their own clock."""
        report = self.stream.report()
        macs = report.macs_handed_out
        return {
            "every": report.every,
            "needed": macs["needed"] / macs["dense"],
            "scheduled": macs["scheduled"] / macs["dense"],
            "native_ms": 1e-6 * self._native_ns() / max(1, report.frames + report.held),
        }

    def _native_ns(self) -> int:
        """Nanoseconds since this was asked last."""
        groups = [g for e in self.stream.engines.values() for g in e.plan.groups]
        return sum(sum(g.times(True).values()) for g in groups if isinstance(g, NativePlan))

    def configure(self, options: Mapping[str, Any]) -> None:
        """Set one threshold and one reach everywhere and start afresh.

        The frame's own test is that of the options' ``input_test``, or the clips' where the threshold is
        above 0. Without a threshold in the options all stays as it is. ``reach`` is in pixels; without it
        there is no bound. ``every`` is how many frames pass from one that the stream looks at to the next.
        Or ``passes``, the text of passes that set all of this, and ``layers``, thresholds by layer name.
        """
        if "passes" in options:
            from videoeff.passes.pipeline import parse_passes

            self._set(parse_passes(options["passes"]), options.get("layers", {}))
            return
        if "threshold" not in options:
            self.stream.reset()
            return
        from videoeff.passes.bound_reach import BoundReach
        from videoeff.passes.insert_thresholds import InsertThresholds

        threshold = float(options["threshold"])
        extra = dict(options.get("input_test") or (CLIP_INPUT if threshold > 0 else {}))
        extra.setdefault("predict", float(options.get("predict", 0.0)))
        chosen = InsertThresholds(threshold, **extra), BoundReach(float(options.get("reach", math.inf)))
        self._set(chosen, {}, int(options.get("every", 1)))

    def _set(self, passes: Sequence[Pass], layers: Mapping[str, float], every: int = 1) -> None:
        from videoeff.runtime.thresholds import rewrite

        for engine in self.stream.engines.values():
            rewrite(engine, *passes)
        if layers:
            self.stream.set_thresholds(layers)
        self.stream.every(every)
        self.stream.reset()


class StreamBf16(Stream):
    """videoeff, computing in bfloat16."""

    precision = "bf16"


class StreamInt8(Stream):
    """videoeff, of the network after NNCF's post-training quantisation to int8."""

    def model(self) -> torch.nn.Module | torch.export.ExportedProgram:
        """The quantised network."""
        path, self.notes["calibration_frames"] = quantised_file(self.job)
        return torch.export.load(path)


RUNNERS: dict[str, type[Runner]] = {
    EAGER: Eager,
    COMPILE: Compiled,
    ONNXRUNTIME: OnnxRuntime,
    OPENVINO: OpenVino,
    OPENVINO_BF16: OpenVinoBf16,
    OPENVINO_INT8: OpenVinoInt8,
    STREAM: Stream,
    STREAM_BF16: StreamBf16,
    STREAM_INT8: StreamInt8,
}
