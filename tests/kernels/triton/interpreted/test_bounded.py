"""A bounded reach, interpreted."""

from __future__ import annotations

from tests.support.triton.bounded import *  # noqa: F403 - the tests themselves
