"""The one tree of errors.

::

    VideoEffError
    ├── CaptureError          a model could not be turned into a Program
    ├── PassError             a rewrite pass failed
    │   ├── OrderError        passes were asked for in an order that cannot work
    │   └── VerifyError       a Program is not legal at its stage
    ├── LoweringError         a legal Program could not be turned into a step
    ├── BackendError          a backend asked for by name cannot serve
    ├── StateError            a frame or a state does not fit the stream
    ├── ArtifactError         a file could not be read as, or written as, an artifact
    ├── VideoError            a clip could not be read or written
    ├── MetricError           outputs could not be judged by a metric
    └── FleetError            a camera or a service was asked for what it cannot do

Every message says what happened, where (layer, node or file) and what to do. The one warning beside them
is :class:`DriftWarning`.
"""

from __future__ import annotations


class VideoEffError(Exception):
    """Base of every error raised on purpose by videoeff."""


class CaptureError(VideoEffError):
    """A model could not be turned into a Program."""


class VaryingSizeError(CaptureError):
    """The values of a frame decide about a size, so that there is no one graph for all frames."""


class PassError(VideoEffError):
    """A rewrite pass failed or was given options it does not have."""


class OrderError(PassError):
    """Passes were asked for in an order that cannot work."""


class VerifyError(PassError):
    """A Program is not legal at the stage it claims to be in."""


class LoweringError(VideoEffError):
    """A legal Program could not be turned into a step."""


class BackendError(VideoEffError):
    """A backend asked for by name is absent or declines a call."""


class StateError(VideoEffError):
    """A frame, a threshold or a saved state does not fit the stream."""


class ArtifactError(VideoEffError):
    """A file could not be read as, or written as, an artifact or a checkpoint."""


class VideoError(VideoEffError):
    """A clip could not be read or written."""


class FleetError(VideoEffError):
    """A camera, a fleet of them or a service was asked for what it cannot do."""


class DriftWarning(UserWarning):
    """The running mean of a stream's audits left its bound: the outputs are too far from the dense ones."""


class MetricError(VideoEffError):
    """Outputs could not be judged: the decoder does not fit them, or a user's metric failed."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
