"""Every case of every op, on a GPU."""

from __future__ import annotations

import pytest

from tests.support.triton.registry import *  # noqa: F403 - the tests themselves

pytestmark = pytest.mark.gpu
