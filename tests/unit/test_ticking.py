"""Whoever waits for a batch sees the time pass, so that a budget ends a night whose nodes never come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from unittest.mock import MagicMock

import pytest

from system.errors import StoreError
from system.pipelines import mine, ticking
from system.pipelines.config import MineConfig
from system.pipelines.mining_progress import MiningProgress
from system.pipelines.ticking import with_ticks
from tests.plain_logs import write_plain_log


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Set at the test's end, so that no thread outlives it."""
    event = threading.Event()
    yield event
    event.set()


def test_items_and_errors_come_through_and_none_is_drawn_ahead():
    drawn = []

    def items():
        for k in range(3):
            drawn.append(k)
            yield k
        raise StoreError("the disk is full")

    ticks = with_ticks(items(), 60)
    assert next(ticks) == 0 and drawn == [0]
    assert [next(ticks), next(ticks)] == [1, 2]
    with pytest.raises(StoreError, match="disk is full"):
        next(ticks)
    assert list(with_ticks((k for k in ()), 60)) == []


def test_time_passes_while_nothing_comes_and_what_comes_late_is_there(never):
    def items():
        never.wait(20)
        yield "late"

    ticks = with_ticks(items(), 0.01)
    assert next(ticks) is None and next(ticks) is None
    never.set()
    assert "late" in list(ticks)


def test_closing_closes_the_generator_in_its_own_thread_unless_it_waits(never, monkeypatch):
    closed_by = []

    def items():
        try:
            yield threading.current_thread()
            never.wait(20)
        finally:
            closed_by.append(threading.current_thread())

    ticks = with_ticks(items(), 0.01)
    own = next(ticks)
    ticks.close()
    assert closed_by == [own] and own is not threading.current_thread()
    monkeypatch.setattr(ticking, "_CLOSE_S", 0.01)
    stuck = with_ticks(items(), 0.01)
    assert next(stuck) is not None and next(stuck) is None
    stuck.close()
    assert len(closed_by) == 1


def test_run_for_which_no_batch_comes_ends_when_it_is_told_to(tmp_path, never, monkeypatch):
    def stream(_: object) -> Iterator[dict]:
        never.wait(60)
        yield from ()

    monkeypatch.setattr(mine._Run, "_stream", stream)
    monkeypatch.setattr(mine, "_TICK_S", 0.01)
    monkeypatch.setattr(mine, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(ticking, "_CLOSE_S", 0.01)
    write_plain_log(tmp_path / "logs", "a", cameras=())
    asked = iter([False, False, True])
    with MiningProgress() as progress:
        config = MineConfig(logs=(str(tmp_path / "logs"),), store=str(tmp_path / "store"))
        result = mine.mine_fleet(config, progress, lambda: next(asked))
    assert result.stopped and result.stalled and (result.committed, result.remaining) == (0, 2)
    assert result.table_version is not None and result.unaccounted == 0


def test_run_that_is_told_to_end_waits_for_the_batch_in_hand_and_is_asked_meanwhile(tmp_path, never, monkeypatch):
    def stream(_: object) -> Iterator[dict]:
        never.wait(60)
        yield {"forward_began_s": 0.0}
        raise AssertionError("one batch is enough")

    committer = MagicMock()
    monkeypatch.setattr(mine._Run, "_stream", stream)
    monkeypatch.setattr(mine, "_TICK_S", 0.01)
    monkeypatch.setattr(mine, "SceneCommitter", lambda *_: committer)
    write_plain_log(tmp_path / "logs", "a", cameras=())
    asked = []

    def should_stop() -> bool:
        asked.append(None)
        if len(asked) == 5:
            never.set()
        return True

    with MiningProgress() as progress:
        config = MineConfig(logs=(str(tmp_path / "logs"),), store=str(tmp_path / "store"))
        result = mine.mine_fleet(config, progress, should_stop)
    assert len(asked) > 5 and committer.add.call_count == 1
    assert committer.flush_if_due.call_count >= 5, "what waits is committed while no batch comes"
    assert result.stopped and not result.stalled


def test_stream_is_closed_though_a_batch_cannot_be_committed(tmp_path, monkeypatch):
    closed = []

    def stream(_: object) -> Iterator[dict]:
        try:
            yield {}
            yield {}
        finally:
            closed.append(True)

    committer = MagicMock()
    committer.add.side_effect, committer.flush.side_effect = StoreError("the disk is full"), StoreError("still full")
    monkeypatch.setattr(mine._Run, "_stream", stream)
    monkeypatch.setattr(mine, "SceneCommitter", lambda *_: committer)
    write_plain_log(tmp_path / "logs", "a", cameras=())
    config = MineConfig(logs=(str(tmp_path / "logs"),), store=str(tmp_path / "store"))
    with MiningProgress() as progress, pytest.raises(StoreError, match="still full"):
        mine.mine_fleet(config, progress)
    assert closed == [True]
