"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Root of the real data; skips, and says so, where NIGHTMINER_DATA is not set."""
    value = os.environ.get("NIGHTMINER_DATA")
    if not value:
        pytest.skip("needs real driving data: set NIGHTMINER_DATA to its root (see README, 'Real data in tests')")
    root = Path(value)
    if not root.is_dir():
        raise FileNotFoundError(f"NIGHTMINER_DATA={value} is not a folder")
    return root
