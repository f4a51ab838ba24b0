"""Saved sets and what they are taken away as, without HTTP."""

from __future__ import annotations

import json
import threading

import pytest
from fsspec.implementations.local import LocalFileSystem

from system.errors import ConfigError, DamagedError, DataError, StoreError
from system.logs.nuscenes import sample_tokens
from system.store import sets
from system.store.location import StoreLocation
from system.store.sets import SavedSet, list_sets, read_set, remove_set, save_set, set_ids

VALUES = {"name": "a", "created_by": "ana", "model_id": "m1", "version": 1, "scene_ids": ("0" * 32,)}


def test_sets_are_found_newest_first_and_a_damaged_one_is_left_out(tmp_path):
    location = StoreLocation.parse(str(tmp_path))
    assert list_sets(location) == []
    first, second = save_set(location, VALUES), save_set(location, VALUES | {"name": "b"})
    (tmp_path / "sets" / f"{'f' * 16}.json").write_text("{")
    (tmp_path / "sets" / f"{'e' * 16}.json").write_bytes(b"\xff")
    (tmp_path / "sets" / "notes.json").write_text("{}")
    assert [saved.set_id for saved in list_sets(location)] == [second.set_id, first.set_id]
    for damaged in ("e" * 16, "f" * 16):
        with pytest.raises(DamagedError, match="damaged"):
            read_set(location, damaged)
    remove_set(location, first.set_id)
    with pytest.raises(ConfigError, match="no set"):
        remove_set(location, first.set_id)
    for name in ("../nightminer", "", "A" * 16, first.set_id):
        with pytest.raises(ConfigError, match="no set"):
            read_set(location, name)


def test_a_store_that_cannot_be_read_is_told_and_not_taken_for_one_without_sets(tmp_path, monkeypatch):
    location = StoreLocation.parse(str(tmp_path))
    save_set(location, VALUES)

    def refused(*_: object) -> bytes:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(LocalFileSystem, "cat_file", refused)
    with pytest.raises(StoreError, match="cannot read sets/"):
        list_sets(location)


def test_sets_are_counted_without_reading_and_read_several_at_a_time(tmp_path, monkeypatch):
    location = StoreLocation.parse(str(tmp_path))
    assert set_ids(location) == []
    saved = {save_set(location, VALUES).set_id for _ in range(4)}
    together = threading.Barrier(len(saved), timeout=10)  # broken, where one is read after the other

    def read(location: StoreLocation, set_id: str) -> SavedSet:
        together.wait()
        return read_set(location, set_id)

    monkeypatch.setattr(sets, "read_set", read)
    assert set(set_ids(location)) == saved
    assert {one.set_id for one in list_sets(location)} == saved


def test_tokens_of_nuscenes_are_those_within_the_window(data_root):
    tables = data_root / "nuscenes" / "v1.0-mini"
    scenes = {row["name"]: row["token"] for row in json.loads((tables / "scene.json").read_text())}
    samples = sorted(
        (row["timestamp"] * 1000, row["token"])
        for row in json.loads((tables / "sample.json").read_text())
        if row["scene_token"] == scenes["scene-0061"]
    )
    start_ns, end_ns = samples[3][0], samples[8][0]
    found = sample_tokens(str(tables), "scene-0061", start_ns, end_ns)
    assert found == (scenes["scene-0061"], [token for _, token in samples[3:8]])
    with pytest.raises(DataError, match="scene-9999"):
        sample_tokens(str(tables), "scene-9999", 0, 1)
