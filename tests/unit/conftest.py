"""Fixtures that several unit tests share."""

from __future__ import annotations

from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from system.pipelines.mining_progress import MiningProgress
from system.pipelines.nightly import night as night_module
from system.pipelines.nightly.outcome import NightResult
from system.pipelines.nightly.report_night import report_and_tell
from tests.nights import DAY, Miner, Night, settings
from tests.serving import Server, make_server


@pytest.fixture
def miner(monkeypatch) -> Miner:
    stand_in = Miner()
    monkeypatch.setattr(night_module, "mine_fleet", stand_in)
    numbers = count(1)  # ids of one second have no order
    monkeypatch.setattr(night_module, "new_run_id", lambda: f"run{next(numbers):03d}")
    return stand_in


@pytest.fixture
def night(tmp_path: Path, miner: Miner) -> Night:
    def run(day: date = DAY, stop: bool = False, since: date | None = None, **more: Any) -> NightResult:
        with MiningProgress() as progress:
            return report_and_tell(settings(tmp_path, **more), progress, lambda: stop, day, since)

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Only read by the tests that share it."""
    return make_server(tmp_path_factory.mktemp("server"))
