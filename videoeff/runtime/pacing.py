"""PacedModule: which frames a stream looks at, and which of them it audits."""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

from torch import nn

from videoeff.errors import StateError
from videoeff.runtime.auditing import Audit
from videoeff.runtime.body import StreamBody
from videoeff.runtime.fidelity import Audited, Drift
from videoeff.runtime.holding import Call, Hold
from videoeff.runtime.options import AuditOptions, Metric, Options
from videoeff.runtime.precision import uncast


class PacedModule(nn.Module):
    """The part of a stream that decides what is done when a frame comes.

    Attributes:
        body: what the stream runs.
        options: of the stream.
        name: the model's.
    """

    body: StreamBody
    options: Options
    name: str

    def __init__(self) -> None:
        super().__init__()
        self._hold, self._audit, self._busy = Hold(), Audit(), threading.Lock()
        self.register_load_state_dict_post_hook(_other_weights)  # type: ignore[no-untyped-call]

    def every(self, n: int) -> Self:
        """Look at every n-th frame only, and hand out the last outputs between; 1 looks at all of them.

        A frame between is not read: neither its changes nor NaN in it are seen, and buffers that the model
        itself changes stay. All entries of the batch look at the same frames; one that is reset alone looks
        at its next frame at once and then keeps to the beat of the others.

        Returns:
            The stream itself.

        Raises:
            StateError: n is no whole number from 1 on.
        """
        self.options = replace(self.options, every=n)
        if self.options.every == 1:
            self._hold.drop()
        return self

    @property
    def looked(self) -> bool:
        """Whether the last frame was looked at; if not, its outputs were those of an earlier one."""
        return self._hold.looked

    def audit(
        self,
        share: float,
        *,
        metric: Metric | None = None,
        at_most: float | None = None,
        at_least: float | None = None,
        over: int = 5,
        idle: bool = False,
    ) -> Self:
        """Compare a share of the frames handed out with the dense network; the report shows the result.

        Outputs and state of the stream are those without audits. Where the mean of the last audits leaves
        its bound, the callback of :meth:`on_drift` is called, or a ``DriftWarning`` is given, once each time.

        Args:
            share: of the frames, 0 (off) to 1.
            metric: makes a number of the outputs and the dense outputs, and changes neither; None for the
                relative error, of the worst stream of the batch.
            at_most: bound of the mean of the last audits.
            at_least: the same from below, for metrics such as an agreement.
            over: audits that this mean is over; before there are so many, nothing is told.
            idle: keep a copy of the frame, and compare when :meth:`audit_now` is called.

        Returns:
            The stream itself.

        Raises:
            StateError: a number is out of its range.
        """
        self.options = replace(self.options, audit=AuditOptions(share, metric, at_most, at_least, over, idle))
        self._audit.begin_again()
        return self

    def on_drift(self, callback: Callable[[Drift], Any] | None) -> Self:
        """Call ``callback`` where audits leave their bound, after the frame; None for a warning instead.

        Returns:
            The stream itself.
        """
        self._audit.on_drift(callback)
        return self

    def audit_now(self) -> Audited | None:
        """Compare the frame that waits with the dense network: for ``audit(..., idle=True)``, between frames.

        Returns:
            What was found, None where no frame waits.
        """
        with self._alone(), uncast(self.body.device):
            found = self._audit.run_waiting(self.options.audit, self.body)
        self._audit.tell(self.name)
        return found

    # -- inside ----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _look(self, call: Call, alias: bool, checked: bool = False) -> Any:
        """Look at a frame; ``checked``: it is known to be finite, or need not be."""

    def _look_or_hold(self, call: Call, checked: bool) -> Any:
        """One frame of a stream that looks at every n-th one, or audits some."""
        body, options = self.body, self.options
        due = self._audit.begin(options.audit, body) if options.audit.share else None
        began = time.perf_counter()
        if options.every == 1:
            outputs = self._look(call, options.alias_outputs, checked)
        else:
            outputs = self._hold.frame(
                options.every, body, call, lambda c: self._look(c, True, checked), options.alias_outputs
            )
        if options.audit.share:
            seconds = time.perf_counter() - began
            self._audit.end(options.audit, body, due, call, outputs, not self.looked, seconds)
        return outputs

    def _enter(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise StateError(
                f"{self.name}: two threads use one stream at once; give each thread its own copy "
                "(copy.deepcopy(stream)), or put the streams in one batch"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._busy.release()


def _other_weights(stream: PacedModule, _: Any) -> None:
    """What waits to be audited was computed with the weights before; with others the stream begins anew."""
    stream._audit.forget_waiting()
    if stream.body.freezer is not None:
        stream.body.freezer.reset()
