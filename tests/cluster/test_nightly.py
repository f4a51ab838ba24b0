"""Nights on real logs that arrive in parts: one late, one with another content, one corrupt, and a night missed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from system.pipelines.config import MineConfig
from system.pipelines.mine import plan_only
from system.store.location import StoreLocation
from system.store.runs import read_quarantine
from system.store.schema import SCENES
from system.store.search import scenes_version
from tests.cluster.conftest import Head
from tests.cluster.jobs import Done, call_job
from tests.unit.test_nightly_webhook import SECRET, Receiver, receiver  # noqa: F401 - a fixture

_TODAY = datetime.now(UTC).date()
FIRST, SECOND, MISSED, THIRD = (str(_TODAY - timedelta(days=ago)) for ago in (3, 2, 1, 0))
NAMES = {"pictures": "tri_dgp/scene_01", "short": "kitti_tracking/0012", "waymo": "waymo_motion/1c365f15b70ebdbf",
         "corrupt": "kitti_tracking/0003", "late": "waymo_motion/2a173b334be3d32c",
         "missed": "waymo_motion/2a1e44d405a6833f", "last": "waymo_motion/2af8a17d6cee3f8"}  # fmt: skip


def _adds_up(figures: dict) -> bool:
    parts = ("committed", "already", "quarantined", "left_for_next_night")
    return figures["found"] == sum(figures[part] for part in parts)


def _scenes(store: Path) -> list[dict]:
    columns = ["scene_id", "log_id", "run_id", "hardness", "num_pictures"]
    return StoreLocation.parse(str(store)).dataset(SCENES).to_table(columns=columns).to_pylist()


def _alerts(done: Done) -> set[str]:
    return {alert["code"] for alert in done.figures["alerts"]}


def test_logs_that_arrive_in_parts_are_each_mined_once(
    head: Head,
    data_root: Path,
    tmp_path: Path,
    receiver: Receiver,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    logs, store = tmp_path / "logs", tmp_path / "store"
    config = (
        f'logs = ["{logs}/{{date}}"]\nstore = "{store}"\nreport = "{tmp_path}/reports"\nmine.max_bad_share = 0.5\n'
        f'webhook = {{url = "{receiver.url}", secret_env = "HOOK_SECRET"}}\n'
    )
    (tmp_path / "nightly.toml").write_text(config + "budget.scenes = 2\n")
    monkeypatch.setenv("HOOK_SECRET", SECRET)

    def upload(name: str, day: str) -> Path:
        return Path(shutil.copytree(data_root / "driving" / NAMES[name], logs / day / name))

    def night(day: str, *more: str) -> Done:
        done = call_job("mine_nightly", "--config", tmp_path / "nightly.toml", "--night", day, *more, env=head.env)
        assert done.code == 0, done.stderr
        assert _adds_up(done.figures), done.figures
        return done

    upload("pictures", FIRST)
    short = upload("short", FIRST)
    first = night(FIRST)
    assert (first.figures["committed"], first.figures["left_for_next_night"]) == (2, 1)
    assert first.figures["budget_spent"] == "2 scenes" and _alerts(first) == {"left_for_next_night"}

    (tmp_path / "nightly.toml").write_text(config)
    upload("waymo", SECOND)
    corrupt = upload("corrupt", SECOND)
    (corrupt / "ego.csv").write_bytes((corrupt / "ego.csv").read_bytes()[:200] + b"\xff\xfe")
    second = night(SECOND)
    assert (second.figures["committed"], second.figures["quarantined"], second.figures["already"]) == (4, 1, 2)
    assert _alerts(second) == {"quarantine"}

    # The night of MISSED never comes. Until the third: its log, a late one of the first day, another content of a log.
    upload("missed", MISSED)
    upload("late", FIRST)
    upload("last", THIRD)
    (short / "agents.csv.gz").unlink()
    planned = call_job("mine_nightly", "--config", tmp_path / "nightly.toml", "--dry-run", env=head.env).figures
    assert (planned["new_logs"], planned["reuploaded_logs"], planned["missed_nights"]) == (3, 1, [MISSED])
    third = night(THIRD)
    figures = third.figures
    assert (figures["new_logs"], figures["late_logs"], figures["reuploaded_logs"]) == (3, 1, 1)
    assert figures["committed"] == 9 + 2 and figures["missed_nights"] == [MISSED]
    assert _alerts(third) == {"missed_nights"}

    again = night(THIRD).figures
    assert again["committed"] == 0 and again["found"] == figures["found"] and again["new_logs"] == 3
    assert again["already"] == figures["already"] + figures["committed"]

    _check_scenes(store, logs, third, lambda row: row["log_id"] == "0012")
    _check_what_was_left(tmp_path, store, third)
    messages = [json.loads(body) for _, body in receiver.got]
    assert [m["night"] for m in messages] == [FIRST, SECOND, THIRD, THIRD]
    assert [m["committed"] for m in messages] == [2, 4, 11, 0]


def _check_scenes(store: Path, logs: Path, third: Done, is_reuploaded: Callable[[dict], bool]) -> None:
    """Each scene of what lies there now is there once, ranked, the changed ones by the third night."""
    rows = _scenes(store)
    days = tuple(str(logs / day) for day in (FIRST, SECOND, MISSED, THIRD))
    now = plan_only(MineConfig(logs=days, store=str(store.with_name("none"))))
    assert len(rows) == len({row["scene_id"] for row in rows}) == len(now.scene_ids) == 15
    assert all(row["scene_id"] in now.scene_ids and row["hardness"] is not None for row in rows)
    assert {row["run_id"] for row in rows if is_reuploaded(row)} == {third.figures["run_id"]}
    assert [row["num_pictures"] for row in rows if row["log_id"] == "scene_01"] == [3]
    location = StoreLocation.parse(str(store))
    assert [fault["code"] for fault in read_quarantine(location)] == ["damaged_table"]
    # Every night can be asked for again, also with the old content of a log.
    counts = [scenes_version(location, f"night-{day}").count_rows() for day in (FIRST, SECOND, THIRD)]
    assert counts == [2, 6, 15]


def _check_what_was_left(folder: Path, store: Path, third: Done) -> None:
    """The labels, the page and the summary of the third night."""
    labels = pq.read_table(third.figures["labels"])
    tonight = {row["scene_id"] for row in _scenes(store) if row["run_id"] == third.figures["run_id"]}
    assert set(labels["scene_id"].to_pylist()) == tonight
    page = (folder / "reports" / f"night-{THIRD}.html").read_text()
    assert "another content than before" in page and f"no night ended on {MISSED}" in page and "Late:" in page
    summary = json.loads((folder / "reports" / f"night-{THIRD}.json").read_text())
    assert summary["version_tag"] == f"night-{THIRD}"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("lats = 1\n", 2, "lats: Extra inputs are not permitted"),
        ('webhook = {url = "http://a.example/x", secret_env = "NOBODY_SET_THIS"}\n', 2, "found 0"),
        ("", 3, "expected the folder or bucket that holds the partitions"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_leaves_no_store(tmp_path: Path, more: str, code: int, said: str):
    logs = f'logs = ["{tmp_path}/nowhere/{{date}}"]\nstore = "{tmp_path}/store"\n'
    (tmp_path / "nightly.toml").write_text(logs + more)
    done = call_job("mine_nightly", "--config", tmp_path / "nightly.toml")
    assert done.code == code and said in done.stderr and len(done.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "store").exists()
