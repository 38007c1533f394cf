"""A bounded reach, on a GPU."""

from __future__ import annotations

import pytest

from tests.support.triton.bounded import *  # noqa: F403 - the tests themselves

pytestmark = pytest.mark.gpu
