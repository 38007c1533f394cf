"""The laws, interpreted."""

from __future__ import annotations

from tests.cuda.both.laws import *  # noqa: F403 - the tests themselves
