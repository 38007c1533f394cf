"""Every case of every op, interpreted."""

from __future__ import annotations

from tests.support.cuda.registry import *  # noqa: F403 - the tests themselves
