"""Corpora of any length made of real pictures, for measurements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.plain_logs import write_plain_log

RIG = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")


def data_root() -> Path:
    """The real data, from NIGHTMINER_DATA.

    Raises:
        SystemExit: it is not set, or there is nothing.
    """
    root = os.environ.get("NIGHTMINER_DATA", "")
    if not root or not Path(root).is_dir():
        raise SystemExit("set NIGHTMINER_DATA to the folder with the real logs; this benchmark means nothing without")
    return Path(root)


def real_pictures() -> list[Path]:
    """Every real driving picture, in a fixed order."""
    root = data_root()
    return sorted(p for part in ("frames", "driving") for p in (root / part).rglob("*.jpg") if "masks" not in str(p))


def write_rig_corpus(
    root: Path,
    num_logs: int,
    seconds: float,
    pictures: list[Path] | None = None,
    seed: int = 0,
    cameras: Sequence[str] = RIG,
) -> Path:
    """Logs of some cameras at 2 Hz whose pictures are links to real ones; their names begin at `seed`."""
    pictures = real_pictures() if pictures is None else pictures
    root.mkdir(parents=True, exist_ok=True)
    for k in range(seed, seed + num_logs):
        write_plain_log(root, f"log{k:05d}", seconds=seconds, cameras=cameras, pictures=pictures, seed=k)
    return root
