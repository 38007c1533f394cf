"""The laws, interpreted."""

from __future__ import annotations

from tests.support.triton.laws import *  # noqa: F403 - the tests themselves
