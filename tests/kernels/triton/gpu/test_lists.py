"""Worklists, on a GPU."""

from __future__ import annotations

import pytest

from tests.support.triton.lists import *  # noqa: F403 - the tests themselves

pytestmark = pytest.mark.gpu
