"""Audits: a share of the frames of a stream is compared with the dense network."""

from __future__ import annotations

import math
import random
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.errors import DriftWarning
from videoeff.runtime.body import StreamBody
from videoeff.runtime.dense import Carried, run_dense
from videoeff.runtime.fidelity import Audited, AuditReport, Drift
from videoeff.runtime.holding import Call
from videoeff.runtime.options import AuditOptions
from videoeff.runtime.zoning import as_seen, frames_as_seen

#: Audits that a report lists; of older ones the totals stay.
RECORDS = 1000


@dataclass(frozen=True)
class _Due:
    """A frame that is to be audited.

    Attributes:
        frame: its number.
        carried: what the model carried before it.
    """

    frame: int
    carried: Carried


@dataclass(frozen=True)
class _Waiting:
    """A frame that waits to be audited in idle time: copies of all that it needs."""

    due: _Due
    call: Call
    outputs: Any
    held: bool


class Audit:
    """Compares frames with the dense network, and says when a bound is left.

    Which frames are audited follows from the share alone: one in each run of 1/share frames, at a place that
    varies from run to run, so that nothing periodic in the scene goes unseen.
    """

    def __init__(self) -> None:
        #: Frames handed out while audits were on.
        self.frames = 0
        self._on_drift: Callable[[Drift], Any] | None = None
        self._outside = False  # whether the running mean was out of its bounds at the last audit
        self._drift: Drift | None = None  # not told yet
        self._waiting: _Waiting | None = None
        self._share, self._run, self._first, self._next = 0.0, 0, 0, 0  # the plan of what is audited when
        self._recent: deque[float] = deque()
        self.clear()

    def clear(self) -> None:
        """Begin the report anew; numbers of frames and the running mean go on."""
        self._records: deque[Audited] = deque(maxlen=RECORDS)
        self._begun = self.frames
        self._total, self._count, self._missed = 0.0, 0, 0
        self._smallest, self._largest = math.inf, -math.inf
        self._seconds = self._audit_seconds = 0.0

    def forget_waiting(self) -> None:
        """Drop the frame that waits: the network that it was for is no longer there."""
        self._waiting = None

    def begin_again(self) -> None:
        """Forget the running mean, which was of another metric or bound."""
        self._recent.clear()
        self._outside, self._drift, self._waiting = False, None, None

    def on_drift(self, callback: Callable[[Drift], Any] | None) -> None:
        """Who is told when a bound is left."""
        self._on_drift = callback

    # -- a frame ---------------------------------------------------------------------------------------

    def begin(self, options: AuditOptions, body: StreamBody) -> _Due | None:
        """Before a frame: keep what the dense network needs if the frame is to be audited."""
        if options.share != self._share:
            self._share, self._run, self._first = options.share, 0, self.frames + 1
            self._plan()
        number = self.frames + 1
        return _Due(number, Carried.now(body)) if number >= self._next else None

    def _plan(self) -> None:
        """Choose the next frame: one of the next run of 1/share frames."""
        begin, end = (self._first + int(i / self._share) for i in (self._run, self._run + 1))
        if self._run == 0 and end > begin + 1:
            begin += 1  # the first frame is computed whole, so that nothing would be learnt
        self._next = random.Random(self._run).randrange(begin, end)
        self._run += 1

    def end(
        self,
        options: AuditOptions,
        body: StreamBody,
        due: _Due | None,
        call: Call,
        outputs: Any,
        held: bool,
        seconds: float,
    ) -> None:
        """After a frame: count it, and audit it at once or keep it for later.

        Args:
            options: of the audits.
            body: what the stream runs.
            due: what :meth:`begin` gave.
            call: the frame.
            outputs: what was handed out.
            held: whether these are the outputs of an earlier frame.
            seconds: that the frame took.
        """
        self.frames += 1
        self._seconds += seconds
        if due is None:
            return
        self._plan()
        began = time.perf_counter()
        if options.idle:
            self._missed += self._waiting is not None
            self._waiting = _kept(body, due, call, outputs, held)
        else:
            args, kwargs = as_seen(body, call.args, call.kwargs)
            self._audit(options, body, due, Call(args, kwargs, call.frames), outputs, held)
        self._audit_seconds += time.perf_counter() - began

    def run_waiting(self, options: AuditOptions, body: StreamBody) -> Audited | None:
        """Audit the frame that waits, if one does."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        began = time.perf_counter()
        found = self._audit(options, body, waiting.due, waiting.call, waiting.outputs, waiting.held)
        self._audit_seconds += time.perf_counter() - began
        return found

    def _audit(
        self, options: AuditOptions, body: StreamBody, due: _Due, call: Call, outputs: Any, held: bool
    ) -> Audited:
        with torch.no_grad():
            dense = run_dense(body, call.args, call.kwargs, due.carried)
            if options.metric is not None:
                found = Audited(due.frame, float(options.metric(outputs, dense)), held)
            else:
                value, stream = relative_error(outputs, dense, body.streams)
                found = Audited(due.frame, value, held, stream)
        self._count += 1
        self._total += found.value
        self._smallest = min(self._smallest, found.value)
        self._largest = max(self._largest, found.value)
        self._records.append(found)
        self._recent.append(found.value)
        while len(self._recent) > options.over:
            self._recent.popleft()
        bound = self._left(options)
        if bound is not None and not self._outside:
            self._drift = Drift(due.frame, statistics.fmean(self._recent), bound, len(self._recent), found)
        self._outside = bound is not None
        return found

    def _left(self, options: AuditOptions) -> float | None:
        """The bound that the running mean has left; one audit alone may be chance, so it waits for all."""
        if len(self._recent) < options.over:
            return None
        mean = statistics.fmean(self._recent)
        if options.at_most is not None and not mean <= options.at_most:
            return options.at_most
        if options.at_least is not None and not mean >= options.at_least:
            return options.at_least
        return None

    def tell(self, name: str) -> None:
        """Tell of a bound that was left: call whoever asked for it, else warn."""
        drift, self._drift = self._drift, None
        if drift is None:
            return
        if self._on_drift is not None:
            self._on_drift(drift)
        else:
            warnings.warn(f"{name}: {drift}", DriftWarning, stacklevel=5)

    # -- looking back ----------------------------------------------------------------------------------

    def report(self, options: AuditOptions) -> AuditReport | None:
        """What the audits found; None where they were never on."""
        frames = self.frames - self._begun
        if not options.share and not self._count:
            return None
        metric = options.metric
        spent = self._seconds + self._audit_seconds
        return AuditReport(
            share=float(options.share),
            metric="relative error" if metric is None else getattr(metric, "__name__", type(metric).__name__),
            at_most=options.at_most,
            at_least=options.at_least,
            over=options.over,
            frames=frames,
            count=self._count,
            missed=self._missed,
            mean=self._total / self._count if self._count else None,
            smallest=self._smallest if self._count else None,
            largest=self._largest if self._count else None,
            running_mean=statistics.fmean(self._recent) if self._recent else None,
            outside=self._left(options) is not None,
            time_share=self._audit_seconds / spent if spent else 0.0,
            records=tuple(self._records),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Audit:
        twin = Audit()
        vars(twin).update(vars(self))
        twin._records, twin._recent = self._records.copy(), self._recent.copy()
        return twin  # a waiting frame is read only, so that both may audit it


def _kept(body: StreamBody, due: _Due, call: Call, outputs: Any, held: bool) -> _Waiting:
    with torch.inference_mode(False), torch.no_grad():
        frames = [f.detach().clone() for f in frames_as_seen(body, call.frames)]
        outputs = pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, outputs)
    args, kwargs = body.signature.call(frames)
    return _Waiting(due, Call(args, kwargs, frames), outputs, held)


def relative_error(found: Any, dense: Any, streams: int = 1) -> tuple[float, int | None]:
    """Length of the difference over the length of the dense outputs, over all tensors of a frame.

    Args:
        found: the outputs of a stream.
        dense: those of the dense network.
        streams: entries of the batch.

    Returns:
        The error, of the worst stream where each output tensor has the batch in front, and that stream;
        infinite where the outputs disagree in number or shape, or about which values are finite.
    """
    ours, theirs = ([v for v in pytree.tree_leaves(x) if isinstance(v, Tensor)] for x in (found, dense))
    if [v.shape for v in ours] != [v.shape for v in theirs]:
        return math.inf, None
    rows = streams if all(v.ndim and v.shape[0] == streams for v in theirs) else 1
    wrong = size = torch.zeros(rows, dtype=torch.float64)
    for a, b in zip(ours, theirs, strict=True):
        if not b.numel():
            continue
        a, b = (v.detach().to("cpu", torch.float64).reshape(rows, -1) for v in (a, b))
        same = (a == b) | (a.isnan() & b.isnan())
        difference = torch.where(same, 0.0, a - b).nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)
        wrong = wrong + difference.square().sum(1)
        size = size + b.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).square().sum(1)
    errors = torch.where(size > 0, wrong / size.clamp(min=torch.finfo(torch.float64).tiny), wrong).sqrt()
    errors = errors.nan_to_num(nan=math.inf, posinf=math.inf)
    worst = int(errors.argmax())
    return float(errors[worst]), worst if rows > 1 else None
