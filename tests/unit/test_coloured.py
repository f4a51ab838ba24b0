"""RGB pictures where infrared is expected are warned of, and infrared ones are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from system.pairs.coloured import count_coloured, tell_coloured
from system.pairs.infrared_set import InfraredPicture, read_infrared_set


def pictures(folder: Path, kinds: str) -> list[InfraredPicture]:
    """c: coloured, g: grey, x: no picture."""
    rng = np.random.default_rng(0)
    made = []
    for n, kind in enumerate(kinds):
        path = folder / f"{n:03d}.png"
        if kind == "x":
            path.write_bytes(b"nothing")
        else:
            Image.fromarray(rng.integers(0, 256, (8, 9, 3) if kind == "c" else (8, 9), dtype=np.uint8)).save(path)
        empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        made.append(InfraredPicture(path.name, str(path), *empty))
    return made


def test_coloured_pictures_are_counted_and_warned_of(tmp_path: Path):
    told: list[str] = []
    assert count_coloured(pictures(tmp_path, "ccgx"), "train.json", told.append) == 2
    assert told and "warning: 2 of 3 pictures of train.json" in told[0] and "expected infrared" in told[0]


def test_infrared_pictures_and_an_empty_set_are_not_warned_of(tmp_path: Path):
    told: list[str] = []
    assert (
        count_coloured(pictures(tmp_path, "ggx"), "train.json", told.append)
        == 0
        == count_coloured([], "x", told.append)
    )
    tell_coloured(0, 9, told.append)
    assert not told


def test_the_whole_of_a_large_set_is_looked_at_in_a_sample(tmp_path: Path):
    assert 20 <= count_coloured(pictures(tmp_path, "g" * 100 + "c" * 100), "x", lambda _: None) <= 64


def test_real_rgb_is_told_from_real_infrared(data_root: Path):
    labels = data_root / "pairs" / "MSRS" / "labels_det"
    told: list[str] = []
    for kind, few in (("infrared", 0), ("visible", 8)):
        found = read_infrared_set(str(labels / f"coco_{kind}_val.json"))
        uris = [p.uri.replace("/infrared/", f"/{kind}/") for p in found.pictures]
        asked = [InfraredPicture(p.picture_id, uri, p.boxes_xyxy, p.labels, p.is_ignored)
                 for p, uri in zip(found.pictures, uris, strict=True)]  # fmt: skip
        assert (count_coloured(asked, kind, told.append) > few) == bool(few)
    assert len(told) == 1
