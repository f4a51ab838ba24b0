"""A store whose disk is full, or that became read-only: one line says so, and with room again nothing is missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.store.location import StoreLocation
from system.store.schema import SCENES
from tests.cluster.conftest import Head
from tests.cluster.jobs import run_job
from tests.plain_logs import write_plain_log


def _mount(*arguments: str) -> bool:
    return (
        shutil.which("mount") is not None and subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of our own, 120 kB small."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _mount("-t", "tmpfs", "-o", "size=120k", "tmpfs", str(folder)):
        pytest.skip("NOT TESTED: a full disk; mounting one needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_nothing_is_lost(disk: Path, head: Head, tmp_path: Path):
    corpus, store = tmp_path / "logs", disk / "store"
    for k in range(4):
        write_plain_log(corpus, f"log{k}", seconds=12.0, seed=k)
    options = ("mine_fleet", "--logs", str(corpus), "--store", str(store))
    full = run_job(*options, env=head.env)
    assert full.code == 4 and "No space left on device" in full.stderr, full
    assert "Traceback" not in full.stderr
    assert _mount("-o", "remount,ro", str(disk))
    frozen = run_job(*options, env=head.env)
    assert frozen.code == 4 and "Read-only file system" in frozen.stderr, frozen
    assert "Traceback" not in frozen.stderr
    assert _mount("-o", "remount,rw,size=60m", str(disk))
    mended = run_job(*options, env=head.env)
    assert mended.code == 0, mended
    ids = StoreLocation.parse(str(store)).dataset(SCENES).to_table(columns=["scene_id"])["scene_id"].to_pylist()
    assert len(ids) == len(set(ids)) == mended.figures["found"]
