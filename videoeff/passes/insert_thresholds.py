"""Insert thresholds: how far a value may move before its consumers are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from videoeff.analysis.casts import is_cast
from videoeff.analysis.predict import not_predicted
from videoeff.analysis.regions import region_of
from videoeff.errors import PassError
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.markers import (
    TESTS,
    cache_name,
    cache_option,
    channels_of,
    delta_cache,
    growth_problem,
    is_cache,
    is_threshold,
    noise_problem,
)
from videoeff.ir.program import Program, input_node
from videoeff.ops.base import op_of
from videoeff.passes.base import Notes, Pass

#: The threshold of a frame's test by noise where none is given, in standard deviations of the noise.
NOISE_THRESHOLD = 4.0


@dataclass(frozen=True)
class InsertThresholds(Pass):
    """Set the change test and threshold of every cache, the input's on its own.

    Caches marked by recompute-expansions get none, so that they need not be kept: what follows them has one.
    With predicted changes, which are told from the map in front, they do.

    Attributes:
        threshold: τ of maps and gates; 0 keeps the stream exact.
        test: ``max``, ``l2``, ``rms`` over the channels, or ``rms-relative`` to the standard deviation of
            the node's first value, for which one τ means the same in every layer.
        predict: π of the predicted changes; 0 switches them off. A convolution whose inputs moved by m
            expects p² = Σ over taps of κ·m², κ being the squared weights of the tap over the output
            channels, adds it to a pending energy per pixel, and computes where √pending exceeds π·τ·scale.
        input_threshold: threshold of the input's test; None stands for ``threshold``, and with ``noise`` for
            :data:`NOISE_THRESHOLD`.
        input_test: the input's test.
        block: edge of the blocks the input test averages over; 1 tests single pixels.
        dilation: blocks marked around each block that changed.
        noise: the camera's noise: for each channel (gain, floor, black), the variance of a value x being
            floor + gain · max(x − black, 0). The input's test is then "noise", its threshold in σ.
        weak: share of the input's threshold that a block next to a changed one has to exceed.
        grow: how often changed blocks grow to such neighbours; 0 for never.
    """

    threshold: float = 0.0
    test: str = "rms-relative"
    predict: float = 0.0
    input_threshold: float | None = None
    input_test: str = "rms-relative"
    block: int = 1
    dilation: int = 0
    noise: tuple[tuple[float, float, float], ...] = ()
    weak: float = 1.0
    grow: int = 0

    name: ClassVar[str] = "insert-thresholds"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Set the options of each cache that can hold its value back."""
        self.check()
        changed = False
        for cache in list(edit.caches(program)):
            changed |= self._set(program, cache, note)
        return changed

    def check(self) -> None:
        """Raise unless the options are legal.

        Raises:
            PassError: one of them is not; named.
        """
        for what, test in (("test", self.test), ("input_test", self.input_test)):
            if test == "noise" and what == "input_test":
                raise PassError("insert-thresholds: input_test='noise' goes with noise=; give that alone")
            if test not in TESTS or test == "noise":
                known = ", ".join(t for t in TESTS if t != "noise")
                raise PassError(f"insert-thresholds: {what}={test!r} is none of {known}")
        for option in ("threshold", "input_threshold", "predict"):
            value = getattr(self, option)
            if not is_threshold(value) and not (value is None and option == "input_threshold"):
                raise PassError(
                    f"insert-thresholds: {option}={value!r}: {option} must be a finite number, 0 or larger"
                )
        for option, least in (("block", 1), ("dilation", 0)):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PassError(
                    f"insert-thresholds: {option}={value!r}: {option} must be at least {least}, and whole"
                )
        if problem := noise_problem(self.noise) or growth_problem(self.weak, self.grow):
            raise PassError(f"insert-thresholds: {problem}")

    @property
    def frame_threshold(self) -> float:
        """The threshold of the frames' test."""
        if self.input_threshold is not None:
            return self.input_threshold
        return NOISE_THRESHOLD if self.noise else self.threshold

    def frame_test(self, cache: fx.Node) -> dict[str, Any]:
        """All options of a frame's test but its threshold."""
        options = {"test": self.input_test, "noise": (), "block": self.block, "dilation": self.dilation}
        if self.noise and not self._other_channels(cache):
            options |= {"test": "noise", "noise": self.noise}
        return options | {"weak": self.weak, "grow": self.grow}

    def _other_channels(self, cache: fx.Node) -> str:
        """Why the noise is not that of a frame, "" if it is."""
        count = channels_of(info(cache).shape or (), cache_option(cache, "layout"))
        if not self.noise or count == len(self.noise):
            return ""
        return f"its noise is not known: it has {count} channel(s), noise is given for {len(self.noise)}"

    def _set(self, program: Program, cache: fx.Node, note: Notes) -> bool:
        name, kind = cache_name(cache), cache_option(cache, "kind")
        if kind == "input" and info(cache).is_spatial:
            if unknown := self._other_channels(cache):
                note(name, f"threshold kept at 0: {unknown}")
            if self.frame_threshold == 0 or unknown:
                return _set_all(cache, test="max", threshold=0.0)
            return _set_all(cache, threshold=self.frame_threshold, **self.frame_test(cache))
        reason = self._declines(program, cache)
        if reason:
            if self.threshold > 0:
                note(name, f"threshold kept at 0: {reason}")
            return _set_all(cache, test="max", threshold=0.0)
        if self.threshold == 0:
            return _set_all(cache, test="max", threshold=0.0)
        options: dict[str, Any] = {"test": self.test, "threshold": self.threshold}
        if self.predict > 0:
            why_not = not_predicted(region_of(cache))
            if why_not:
                note(name, f"changes not predicted: {why_not}")
            else:
                options["predict"] = self.predict
        return _set_all(cache, **options)

    def _declines(self, program: Program, cache: fx.Node) -> str:
        value = info(cache)
        if cache_option(cache, "kind") == "state":
            return "a model's own buffer is carried exactly"
        if cache_option(cache, "kind") in ("global", "input"):
            return "nothing local follows it"
        if value.dtype is None or not value.dtype.is_floating_point:
            return f"it holds {value.dtype}"
        if cache_option(cache, "streams") is None:
            return "it mixes streams"
        source = input_node(cache)
        if is_cache(source) and cache_option(source, "kind") == "input":
            return "it is the frame as 8-bit numbers, and the frame has a test of its own"
        if _casts_frame(cache):
            return "it is the frame in another precision, and the frame has a test of its own"
        if all(user.op == "output" for user in _final_users(cache)):
            return "it is an output: holding it back would save nothing"
        if cache_option(cache, "recompute") and self.predict == 0:
            return "it is computed anew rather than kept; a threshold set by its name keeps it"
        return ""


def _set_all(cache: fx.Node, **options: Any) -> bool:
    """Set these options, and those of an earlier run that are not among them back to their defaults."""
    known = delta_cache.__kwdefaults__ or {}
    own = ("block", "dilation", "noise", "weak", "grow", "predict")
    left = {o: known[o] for o in own if o in cache.kwargs and o not in options}
    return edit.set_option(cache, **left, **options)


def _casts_frame(cache: fx.Node) -> bool:
    """Whether a cache keeps nothing but the frame in another precision."""
    region = region_of(cache)
    roles = {op.role for n in region.nodes if not is_cast(n) and (op := op_of(n)) is not None}
    frames = all(is_cache(n) and cache_option(n, "kind") == "input" for n in region.reads)
    return frames and roles <= {"layout"} and any(is_cast(n) for n in region.nodes)


def _final_users(cache: fx.Node) -> list[fx.Node]:
    """Who reads a cache, looking through layout ops and casts."""
    found: list[fx.Node] = []
    for user in cache.users:
        op = op_of(user)
        layout = op is not None and op.role == "layout" and not is_cache(user)
        if is_cast(user):
            found.extend(u for c in user.users for u in (_final_users(c) if is_cache(c) else [c]))
        elif user.op == "call_function" and layout:
            found.extend(_final_users(user))
        else:
            found.append(user)
    return found
