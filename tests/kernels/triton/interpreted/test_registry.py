"""Every case of every op, interpreted."""

from __future__ import annotations

from tests.support.triton.registry import *  # noqa: F403 - the tests themselves
