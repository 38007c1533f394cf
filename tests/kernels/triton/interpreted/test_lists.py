"""Worklists, interpreted."""

from __future__ import annotations

from tests.support.triton.lists import *  # noqa: F403 - the tests themselves
