"""The check of pairs as its users run it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.cluster.conftest import Head
from tests.cluster.jobs import run_job


def corpus(root: Path, count: int) -> Path:
    """Pairs that lie 6 px apart; one is truncated, one of another shape, one without a partner, one copied."""
    for side in ("visible", "infrared"):
        (root / side).mkdir(parents=True)
    for k in range(count):
        rng = np.random.default_rng(k)
        image = np.full((140, 180, 3), 90, np.uint8)
        for _ in range(25):
            x, y, w, h = (int(value) for value in (*rng.integers(0, 180, 2), *rng.integers(6, 40, 2)))
            cv2.rectangle(image, (x, y), (x + w, y + h), tuple(int(v) for v in rng.integers(0, 256, 3)), -1)
        heat = 255 - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        Image.fromarray(image[10:-10, 10:-10]).save(root / f"visible/{k:03}.png")
        Image.fromarray(heat[10:-10, 4:-16]).save(root / f"infrared/{k:03}.png")
    for side in ("visible", "infrared"):
        (root / side / "copy.png").write_bytes((root / side / "003.png").read_bytes())
    damaged = root / "visible/000.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    Image.fromarray(np.zeros((50, 120), np.uint8)).save(root / "infrared/001.png")
    (root / "visible/alone.png").write_bytes((root / "visible/002.png").read_bytes())
    return root


def test_every_pair_is_counted_and_what_is_wrong_is_named(head: Head, tmp_path: Path):
    out = tmp_path / "out"
    done = run_job("check_pairs", "--pairs", corpus(tmp_path / "c", 20), "--out", out, env=head.env)
    assert done.code == 0, done.stderr
    figures = done.figures
    (entry,) = figures["corpora"]
    assert (figures["pairs"], figures["unreadable"], figures["unmatched"]) == (21, 2, 1)
    assert entry["faults"] == {"truncated_image": 1, "size_mismatch": 1}
    assert abs(entry["shift"]["median_dx_px"] - 6) < 0.6 and abs(entry["shift"]["median_dy_px"]) < 0.6
    assert (figures["duplicates"]["exact"], figures["duplicates"]["groups"]) == (1, 1)
    table = pq.read_table(out / "pairs.parquet")
    assert len(table) == 21 and sorted(filter(None, table["code"].to_pylist())) == ["size_mismatch", "truncated_image"]
    (sheet,) = figures["sheets"]
    with Image.open(sheet) as picture:
        assert picture.width > 1000
    assert json.loads((out / "summary.json").read_text())["pairs"] == 21
    faults = [json.loads(line) for line in (out / "faults.jsonl").read_text().splitlines()]
    assert [fault["code"] for fault in faults] == ["unmatched", "truncated_image", "size_mismatch"]
    assert "alone.png" in faults[0]["message"] and [fault["pair_id"] for fault in faults[1:]] == ["000", "001"]


def test_an_empty_folder_is_one_line_and_exit_code_3(head: Head, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    done = run_job("check_pairs", "--pairs", tmp_path / "empty", "--out", tmp_path / "out", env=head.env)
    assert (done.code, len(done.stderr.strip().splitlines())) == (3, 1)
    assert "empty folder" in done.stderr
