"""How networks are reached, and how long is waited between attempts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from videoeff.errors import VideoError
from videoeff.video.live import Transport
from videoeff.video.live.transport import Backoff


def test_defaults() -> None:
    transport = Transport()
    assert (transport.protocol, transport.timeout, transport.stall) == ("tcp", 10.0, 5.0)
    assert transport.backoff == (0.5, 30.0)
    assert "geheim" not in repr(Transport(options={"headers": "Authorization: geheim"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"protocol": "sctp"},
        {"timeout": 0},
        {"stall": -1},
        {"stall": math.inf},
        {"timeout": math.nan},
        {"backoff": (0, 1)},
        {"backoff": (2, 1)},
        {"options": {"probesize": 5}},
    ],
)
def test_values_out_of_their_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(VideoError, match=f"transport: .*{next(iter(wrong)).rstrip('s')}"):
        Transport(**wrong)


def test_waits_grow_to_the_longest_and_vary() -> None:
    backoff = Backoff(0.5, 30.0)
    waits = [backoff.wait(0.0, hopeless=False) for _ in range(12)]
    for wait, full in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30], strict=True):
        assert full / 2 <= wait <= full
    assert len({wait / full for wait, full in zip(waits[6:], [30] * 6, strict=True)}) > 1
    other = Backoff(0.5, 30.0)
    assert [other.wait(0.0, hopeless=False) for _ in range(12)] != waits


def test_a_connection_that_lived_begins_anew() -> None:
    backoff = Backoff(1.0, 64.0)
    for _ in range(4):
        backoff.wait(0.0, hopeless=False)
    waited = backoff.wait(0.0, hopeless=False)
    assert waited >= 8
    assert backoff.wait(waited / 2, hopeless=False) >= 16  # it did not live for long enough
    assert backoff.wait(1000.0, hopeless=False) <= 1.0


def test_there_is_no_hurry_where_it_is_hopeless() -> None:
    backoff = Backoff(0.5, 30.0)
    assert backoff.wait(0.0, hopeless=True) >= 15.0


def test_thousands_of_attempts() -> None:
    backoff = Backoff(0.5, 30.0)
    assert all(backoff.wait(0.0, hopeless=False) <= 30.0 for _ in range(5000))
