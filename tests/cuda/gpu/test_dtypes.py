"""Half precision, on a GPU."""

from __future__ import annotations

import pytest

from tests.cuda.both.dtypes import *  # noqa: F403 - the tests themselves

pytestmark = pytest.mark.gpu
