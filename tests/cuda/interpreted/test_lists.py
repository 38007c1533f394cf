"""Worklists, interpreted."""

from __future__ import annotations

from tests.cuda.both.lists import *  # noqa: F403 - the tests themselves
