"""How much of a clip calibration looks at, so that it ends in time."""

from __future__ import annotations

from dataclasses import dataclass

from videoeff.calibration.frames import HELD

#: Consecutive frames of a block to search on: short ones do not show what is lost only slowly.
_SHORTEST, _LONGEST = 12, 32
#: Blocks of each level of the search.
LEVELS = (3, 8, 24)
#: Trials on all of the frames searched on, and the share of the time for them.
_LARGE, _LARGE_TIME = 30, 0.4
#: A whole search costs about as many frames as this many trials on the fewest frames.
_TRIALS = 100
#: A streamed frame takes about this share of a dense one, over the search.
_STREAMED = 0.6
#: Milliseconds that judging a frame takes at least.
_AROUND = 1.0
#: Share of the time for the search, and for judging on what is held back.
_SEARCHING, _JUDGING = 0.55, 0.2
#: Trials on the part that is held back: the chosen settings and the curve.
_JUDGED = 8
#: Most frames held back that are judged, and most bytes of decoded frames.
_HELD, _BYTES = 600, 1_500_000_000


#: Seconds that all may take where nothing is said: at least, for each millisecond of a frame, and at most.
_LEAST, _EACH, _MOST = 30.0, 10.0, 540.0


@dataclass(frozen=True)
class Plan:
    """Numbers of frames.

    Attributes:
        length: of a block to search on.
        levels: blocks of each level.
        held: frames held back that are judged.
    """

    length: int
    levels: tuple[int, ...]
    held: int


def usual_limit(frame_ms: float) -> float:
    """Seconds that all may take where nothing is said, for a network whose whole frame takes ``frame_ms``."""
    return min(_MOST, _LEAST + _EACH * frame_ms)


def plan(total: int, frame_ms: float, frame_bytes: int, time_limit: float) -> Plan:
    """Decide how many frames to use.

    Args:
        total: frames of the clip.
        frame_ms: of a frame that is computed whole.
        frame_bytes: of a decoded frame.
        time_limit: seconds that all may take.
    """
    available = 1e3 * time_limit / max(_STREAMED * frame_ms, _AROUND)
    length = int(_SEARCHING * available / _TRIALS / LEVELS[0])
    length = max(_SHORTEST, min(_LONGEST, length))
    searched = total - int(total * HELD)
    length = max(2, min(length, searched // 2)) if searched < LEVELS[0] * length else length
    blocks = max(1, searched // length)
    most = max(LEVELS[1], int(_LARGE_TIME * available / _LARGE / length))
    levels = tuple(dict.fromkeys(min(n, blocks, most) for n in LEVELS))
    held = int(_JUDGING * available / _JUDGED)
    room = _BYTES // max(1, frame_bytes) - length * levels[-1]
    return Plan(length, levels, max(4, min(max(held, 2 * length), _HELD, room)))
