"""Figures of the cameras for Prometheus, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from videoeff.fleet.status import CameraStatus
    from videoeff.serve.service import Service

Read = Callable[[Any], Any]

_COUNTERS: tuple[tuple[str, str, Read], ...] = (
    ("frames", "Frames computed.", lambda s: s.frames),
    ("late", "Frames decoded and dropped because newer ones came.", lambda s: s.late),
    ("refused", "Frames that the network could not take.", lambda s: s.refused),
    ("skipped", "Frames left out to keep to the rate asked for.", lambda s: s.skipped),
    ("damaged", "Frames of which the decoder made parts up.", lambda s: s.counters.damaged),
    ("lost_connections", "Times a live connection was lost.", lambda s: s.counters.lost),
)

_GAUGES: tuple[tuple[str, str, Read], ...] = (
    ("up", "1 while frames come, else 0.", lambda s: float(s.state == "live")),
    ("fps", "Frames computed a second, over the last 10 seconds.", lambda s: s.fps),
    ("work_share", "Work that was needed over the dense network's.", lambda s: s.work_share),
    ("audit_error", "Mean relative error of the last audits.", lambda s: s.audit_error),
    ("drifting", "1 while that error is above its budget, else 0.", lambda s: float(s.drifting)),
    ("state_bytes", "Memory of the camera's state in bytes.", lambda s: float(s.state_bytes)),
    ("uptime_seconds", "Seconds since the camera was added.", lambda s: s.uptime),
)

_QUANTILES: tuple[tuple[str, str, Read], ...] = (
    ("compute_seconds", "Time to compute one of the last frames.", lambda s: s.ms),
    ("waited_seconds", "Time from decoding to computing of one of the last frames.", lambda s: s.waited_ms),
)


def exposition(service: Service) -> bytes:
    """All figures in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(service))
    return generate_latest(registry)


class _Figures(Collector):
    """Reads the fleet's status."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now; a figure that there is not yet is left out."""
        status = self._service.fleet.status()
        cameras = sorted(status.cameras, key=lambda s: s.name)
        for name, text, read in _COUNTERS:
            counter = CounterMetricFamily(f"videoeff_camera_{name}", text, labels=["camera"])
            _fill(counter, cameras, read)
            yield counter
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"videoeff_camera_{name}", text, labels=["camera"])
            _fill(gauge, cameras, read)
            yield gauge
        for name, text, read in _QUANTILES:
            gauge = GaugeMetricFamily(f"videoeff_camera_{name}", text, labels=["camera", "quantile"])
            for camera in cameras:
                spread = read(camera)
                for key, share in (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99")):
                    if spread is not None:
                        gauge.add_metric([camera.name, share], getattr(spread, key) / 1000)
            yield gauge
        state = GaugeMetricFamily("videoeff_camera_state", "1 for the state.", labels=["camera", "state"])
        for camera in cameras:
            state.add_metric([camera.name, camera.state], 1)
        yield state
        hub = self._service.hub
        yield GaugeMetricFamily("videoeff_cameras", "Cameras.", len(cameras))
        yield GaugeMetricFamily("videoeff_workers", "Threads that compute.", status.workers)
        yield GaugeMetricFamily("videoeff_busy", "Share of their time that they compute.", status.busy)
        yield GaugeMetricFamily("videoeff_clients", "Streams of events and previews.", hub.clients)
        yield CounterMetricFamily(
            "videoeff_clients_lost", "Outputs that were dropped for slow clients.", hub.lost
        )


def _fill(metric: Any, cameras: Iterable[CameraStatus], read: Read) -> None:
    for camera in cameras:
        value = read(camera)
        if value is not None:
            metric.add_metric([camera.name], value)
