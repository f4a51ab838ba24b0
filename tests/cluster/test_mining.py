"""The main job as its users run it: on a cluster, on bad input, killed, stopped, twice at once."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.store.location import StoreLocation
from system.store.runs import read_quarantine, read_run
from system.store.schema import SCENES
from tests.cluster.conftest import RAY, Head
from tests.cluster.jobs import ROOT, call_job, run_job
from tests.plain_logs import write_plain_log

Damage = Callable[[Path], None]


def _scenes(store: Path) -> list[dict]:
    return StoreLocation.parse(str(store)).dataset(SCENES).to_table().to_pylist()


def _edit_json(folder: Path, **changes: object) -> None:
    log = json.loads((folder / "log.json").read_text())
    (folder / "log.json").write_text(json.dumps(log | changes))


def _edit_lines(path: Path, edit: Callable[[list[str]], list[str]]) -> None:
    packed = path.suffix == ".gz"
    lines = (gzip.decompress(path.read_bytes()).decode() if packed else path.read_text()).splitlines()
    text = "\n".join(edit(lines)) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())


def _cell(row: int, column: int, value: str) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        cells = lines[row].split(",")
        cells[column] = value
        return [*lines[:row], ",".join(cells), *lines[row + 1 :]]

    return edit


def _every_picture(damage: Damage) -> Damage:
    def damage_all(folder: Path) -> None:
        for path in sorted((folder / "images").iterdir()):
            damage(path)

    return damage_all


def _bomb(path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


# What is done to a good log, and the code that its quarantine must carry.
DAMAGES: dict[str, tuple[Damage, str]] = {
    "pictures missing": (_every_picture(Path.unlink), "missing_file"),
    "pictures of no bytes": (_every_picture(lambda p: p.write_bytes(b"")), "empty_file"),
    "pictures truncated": (_every_picture(lambda p: p.write_bytes(p.read_bytes()[:900])), "truncated_image"),
    "pictures are text": (_every_picture(lambda p: p.write_bytes(b"no picture at all " * 9)), "not_an_image"),
    "pictures are bombs": (_every_picture(_bomb), "too_large"),
    "pictures of another size": (
        _every_picture(lambda p: Image.new("RGB", (64, 48)).save(p, "JPEG")),
        "wrong_shape",
    ),
    "pose not a number": (lambda d: _edit_lines(d / "ego.csv", _cell(3, 2, "nan")), "nan_pose"),
    "pose on another planet": (lambda d: _edit_lines(d / "ego.csv", _cell(3, 2, "1e12")), "impossible_value"),
    "speed of a rocket": (lambda d: _edit_lines(d / "ego.csv", _cell(3, 6, "9000")), "impossible_value"),
    "time runs back": (lambda d: _edit_lines(d / "ego.csv", _cell(4, 1, "0.1")), "impossible_time"),
    "pose is a word": (lambda d: _edit_lines(d / "ego.csv", _cell(3, 2, "north")), "damaged_table"),
    "pose column missing": (
        lambda d: _edit_lines(d / "ego.csv", lambda ls: [ls[0].replace("yaw", "course"), *ls[1:]]),
        "missing_column",
    ),
    "pose table empty": (lambda d: _edit_lines(d / "ego.csv", lambda ls: ls[:1]), "empty_table"),
    "pose table is binary": (lambda d: (d / "ego.csv").write_bytes(b"\xa9\x00\xff\n" * 99), "damaged_table"),
    "agent not a number": (lambda d: _edit_lines(d / "agents.csv.gz", _cell(2, 4, "nan")), "nan_agent"),
    "agent of no size": (lambda d: _edit_lines(d / "agents.csv.gz", _cell(2, 8, "0")), "impossible_box"),
    "agent seen twice at once": (lambda d: _edit_lines(d / "agents.csv.gz", _cell(3, 1, "0.0")), "impossible_time"),
    "agents not gzipped": (lambda d: (d / "agents.csv.gz").write_bytes(b"frame,t\n0,0\n"), "damaged_table"),
    "agents cut short": (
        lambda d: (d / "agents.csv.gz").write_bytes((d / "agents.csv.gz").read_bytes()[:60]),
        "damaged_table",
    ),
    "log.json cut short": (lambda d: (d / "log.json").write_text('{"log_id": "x", '), "damaged_json"),
    "log.json is a list": (lambda d: (d / "log.json").write_text("[1, 2]"), "damaged_json"),
    "images not a list": (lambda d: _edit_json(d, images={"a": 1}), "damaged_json"),
    "picture outside of the log": (
        lambda d: _edit_json(d, images=[{"frame": 0, "camera": "c", "path": "../../../../etc/passwd"}]),
        "path_escapes",
    ),
    "ego of no size": (lambda d: _edit_json(d, ego_size=[4.0, 0.0, 1.5]), "impossible_box"),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, head: Head):
    """Two good logs among all the damaged ones, mined once."""
    root = tmp_path_factory.mktemp("damaged")
    fleet = root / "fleet"
    for name in ("good0", "good1"):
        write_plain_log(fleet, name, seconds=4, seed=3)
    for k, (damage, _) in enumerate(DAMAGES.values()):
        damage(write_plain_log(fleet, f"bad{k:02d}", seconds=4, seed=k))
    # One bad picture among good ones: the scene is mined without it.
    one_bad = write_plain_log(fleet, "scratched", seconds=4)
    (one_bad / "images" / "CAM_FRONT_0003.jpg").write_bytes(b"")
    store = root / "store"
    done = run_job("mine_fleet", "--logs", fleet, "--store", store, "--max-bad-share", "1", env=head.env)
    return fleet, store, done


def test_everything_good_among_bad_input_is_mined(damaged):
    _, store, done = damaged
    assert done.code == 0, done.stderr
    figures = done.figures
    assert figures["found"] == figures["committed"] + figures["quarantined"] == len(DAMAGES) + 3
    assert {row["log_id"] for row in _scenes(store)} == {"good0", "good1", "scratched"}
    scratched = next(row for row in _scenes(store) if row["log_id"] == "scratched")
    assert (scratched["num_pictures"], scratched["num_bad_pictures"]) == (15, 1)


@pytest.mark.parametrize("kind", DAMAGES)
def test_bad_input_is_quarantined_by_name_with_what_was_expected(damaged, kind: str):
    fleet, store, _ = damaged
    folder = fleet / f"bad{list(DAMAGES).index(kind):02d}"
    faults = [
        fault
        for fault in read_quarantine(StoreLocation.parse(str(store)))
        if str(folder) in fault["message"] and fault["level"] in ("scene", "log")
    ]
    assert len(faults) == 1, f"{kind}: {faults}"
    assert faults[0]["code"] == DAMAGES[kind][1]
    assert (
        "expected" in faults[0]["message"]
        or "leaves its root" in faults[0]["message"]
        or "states" in faults[0]["message"]
    )


def test_quarantine_is_written_once_and_not_tried_again_unasked(damaged, head: Head):
    fleet, store, first = damaged
    before = len(read_quarantine(StoreLocation.parse(str(store))))
    again = call_job("mine_fleet", "--logs", fleet, "--store", store, "--max-bad-share", "1", env=head.env)
    assert again.figures["committed"] == 0
    assert again.figures["quarantined"] == first.figures["quarantined"]
    assert len(read_quarantine(StoreLocation.parse(str(store)))) == before


def test_too_much_quarantine_fails_the_run_and_keeps_the_good(damaged, head: Head, tmp_path: Path):
    fleet, _, _ = damaged
    done = call_job("mine_fleet", "--logs", fleet, "--store", tmp_path / "store", env=head.env)
    assert done.code == 6
    assert "more than --max-bad-share" in done.stderr
    assert done.figures["committed"] == 3


def test_a_mended_log_is_mined_when_asked(damaged, head: Head, tmp_path: Path):
    fleet = tmp_path / "fleet"
    log = write_plain_log(fleet, "mended", seconds=4)
    ego = (log / "ego.csv").read_text()
    (log / "ego.csv").write_text(ego.replace("10.0", "nan", 1))
    arguments = ("--logs", fleet, "--store", tmp_path / "store", "--max-bad-share", "1")
    assert call_job("mine_fleet", *arguments, env=head.env).figures["quarantined"] == 1
    (log / "ego.csv").write_text(ego)
    assert call_job("mine_fleet", *arguments, env=head.env).figures["committed"] == 0
    mended = call_job("mine_fleet", *arguments, "--retry-quarantined", env=head.env).figures
    assert (mended["committed"], mended["quarantined"]) == (1, 0)


def test_ray_job_submit_mines_and_the_store_can_be_read_afterwards(head: Head, tmp_path: Path):
    write_plain_log(tmp_path / "fleet", "log0", seconds=8)
    command = [RAY, "job", "submit", "--address", head.dashboard, "--", "python", str(ROOT / "jobs" / "mine_fleet.py")]
    command += ["--logs", str(tmp_path / "fleet"), "--store", str(tmp_path / "store")]
    done = subprocess.run(command, env=head.env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"run_id"')))
    assert figures["committed"] == len(_scenes(tmp_path / "store")) == 2
    search = run_job("search_scenes", "--store", tmp_path / "store", "--text", "a car", "--top", "1", env=head.env)
    result = search.figures["results"][0]
    assert {"scene_id", "log_id", "score", "risk", "tags", "hardness", "why"} <= set(result)
    assert result["risk"] > 0.3  # the lead brakes to a stop in front of the ego
    like = call_job("search_scenes", "--store", tmp_path / "store", "--scene", result["scene_id"], env=head.env)
    assert result["scene_id"] not in [row["scene_id"] for row in like.figures["results"]]
    picture = next((tmp_path / "fleet" / "log0" / "images").iterdir())
    by_image = call_job("search_scenes", "--store", tmp_path / "store", "--image", picture, env=head.env)
    assert by_image.figures["results"][0]["score"] > 0.5
    shown = run_job("show_run", "--store", tmp_path / "store", env=head.env)
    assert shown.figures["status"] == "finished"
    page = Path(figures["report"]).read_text()
    assert "Hardest scenes" in page
    assert "data:image/jpeg" in page


def test_sigterm_ends_the_batch_in_hand_and_the_next_run_mines_the_rest(head: Head, tmp_path: Path):
    for k in range(7):
        write_plain_log(tmp_path / "fleet", f"log{k:02d}", seconds=40, seed=k)
    arguments = ("--logs", tmp_path / "fleet", "--store", tmp_path / "store")
    command = [sys.executable, str(ROOT / "jobs" / "mine_fleet.py"), *map(str, arguments)]
    job = subprocess.Popen(command, cwd=ROOT, env=head.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_until(lambda: (tmp_path / "store" / "nightminer.json").exists() and len(_scenes(tmp_path / "store")) > 0)
    # While it runs nobody else may write, and is told who does.
    refused = call_job("mine_fleet", *arguments, env=head.env)
    assert refused.code == 4
    assert f"process {job.pid} on" in refused.stderr
    job.send_signal(signal.SIGTERM)
    stdout, stderr = job.communicate(timeout=120)
    assert job.returncode == 0, stderr
    assert stdout.strip().splitlines()[-1].startswith('{"run_id"'), stdout[-2000:]
    figures = json.loads(stdout.strip().splitlines()[-1])
    assert figures["found"] == figures["committed"] + figures["remaining"] == 70
    assert figures["stopped"] == (figures["remaining"] > 0)
    rest = call_job("mine_fleet", *arguments, env=head.env).figures
    assert rest["committed"] == figures["remaining"]
    ids = [row["scene_id"] for row in _scenes(tmp_path / "store")]
    assert len(ids) == len(set(ids)) == 70
    assert read_run(StoreLocation.parse(str(tmp_path / "store")), "latest").report["figures"]["problem"] is None


def test_limit_mines_so_many_now_and_the_others_later(head: Head, tmp_path: Path):
    write_plain_log(tmp_path / "fleet", "log0", seconds=16)
    arguments = ("--logs", tmp_path / "fleet", "--store", tmp_path / "store")
    plan = call_job("mine_fleet", *arguments, "--dry-run", env=head.env).figures
    assert (plan["found"], plan["todo"], plan["dry_run"]) == (4, 4, True)
    assert not (tmp_path / "store").exists()
    first = call_job("mine_fleet", *arguments, "--limit", "3", env=head.env).figures
    assert (first["committed"], first["deferred"]) == (3, 1)
    assert call_job("mine_fleet", *arguments, env=head.env).figures["committed"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--logs", "/nowhere"), 3, "/nowhere: expected a folder"),
        (("--logs", "{empty}"), 3, "found an empty folder"),
        (("--logs", "{fleet}", "--format", "tape"), 2, "expected one of: auto"),
        (("--logs", "{fleet}", "--tower", "clip9000"), 2, "unknown tower 'clip9000'"),
        (("--logs", "{fleet}", "--window-s", "-1"), 2, "length_s: Input should be greater than 0"),
        (("--logs", "{fleet}", "--model", "/nowhere"), 5, "/nowhere/config.json"),
        (("--logs", "{fleet}", "--taxonomy", "/nowhere.toml"), 2, "/nowhere.toml"),
    ],
)
def test_a_wrong_option_is_one_line_that_says_what_to_do(tmp_path: Path, arguments, code, message):
    fleet, empty = tmp_path / "fleet", tmp_path / "empty"
    write_plain_log(fleet, "log0", seconds=4)
    empty.mkdir()
    words = [word.format(fleet=fleet, empty=empty) for word in arguments]
    done = call_job("mine_fleet", *words, "--store", tmp_path / "store")
    assert done.code == code, done.stderr
    assert message in done.stderr


def _wait_until(is_so: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.mark.slow
def test_a_signal_to_all_processes_ends_the_run_after_the_batch_in_hand(tmp_path: Path):
    """As `timeout` and service managers send it: Ray's own processes get it too."""
    for number in range(40):
        write_plain_log(tmp_path / "fleet", f"log{number}", seconds=8)
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, str(ROOT / "jobs" / "mine_fleet.py")]
    command += ["--logs", str(tmp_path / "fleet"), "--store", str(tmp_path / "store")]
    job = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, start_new_session=True, text=True)
    _wait_until(lambda: (tmp_path / "store" / "nightminer.json").exists() and len(_scenes(tmp_path / "store")) > 0)
    os.killpg(job.pid, signal.SIGTERM)
    stdout, _ = job.communicate(timeout=120)
    assert job.returncode == 0
    figures = json.loads(stdout.strip().splitlines()[-1])
    assert figures["found"] == figures["committed"] + figures["remaining"] == 80
    assert read_run(StoreLocation.parse(str(tmp_path / "store")), "latest").status in ("stopped", "finished")
