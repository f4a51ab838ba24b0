"""Ranking a store: exactly while it is small, by its index and in turns when it is large."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from system.errors import ConflictError
from system.miner.hardness import HardnessWeights, percentile_ranks
from system.pipelines.ranking import exact_rarity, rank_rows, run_to_refresh
from system.store.commits import append_rows, commit_updated
from system.store.location import StoreLocation
from system.store.ranking import num_unranked, rarity_of_part, read_signals
from system.store.schema import SCENES
from system.store.tables import open_for_writing
from tests.unit.test_store import MODEL, scene_rows

WEIGHTS, NEIGHBOURS = HardnessWeights(), 3


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    place = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(place, MODEL)
    for k in range(4):
        append_rows(place, SCENES, scene_rows(15, 15 * k))
    append_rows(place, SCENES, scene_rows(5, model_id="m2"))
    return place


def newest(location: StoreLocation) -> int:
    return int(location.dataset(SCENES).version)


def exact(location: StoreLocation):
    return exact_rarity(location, newest(location), "m1", NEIGHBOURS)


def ranked(location: StoreLocation, found) -> dict[str, np.ndarray]:
    dataset = location.dataset(SCENES)
    commit_updated(location, SCENES, *rank_rows(location, dataset.version, "m1", WEIGHTS, found), dataset.version)
    table = location.dataset(SCENES).to_table(filter="model_id = 'm1'").to_pandas()
    return {name: table[name].to_numpy() for name in table.columns} | {"scene_id": table["scene_id"].to_numpy()}


def test_looking_up_in_parts_finds_what_comparing_all_does(location):
    addresses, rarity = exact(location)
    assert len(rarity) == 48 and np.isfinite(rarity).all()
    parts = [rarity_of_part(location, newest(location), "m1", None, NEIGHBOURS, part, 3) for part in range(3)]
    looked_up = dict(zip(np.concatenate([a for a, _ in parts]), np.concatenate([r for _, r in parts]), strict=True))
    assert looked_up.keys() == set(addresses)
    np.testing.assert_allclose([looked_up[a] for a in addresses], rarity, atol=1e-5)


def test_ranks_are_among_all_scenes_and_those_of_no_model_but_ours(location):
    rows = ranked(location, [exact(location)])
    assert num_unranked(location, "m1") == 0 and num_unranked(location, "m2") == 5
    np.testing.assert_allclose(rows["rarity_rank"], percentile_ranks(rows["rarity"]), atol=1e-6)
    np.testing.assert_allclose(rows["risk_rank"], percentile_ranks(rows["risk"]), atol=1e-6)
    assert np.isnan(rows["rarity_rank"]).sum() == 12 and (rows["ranked_among"] == 60).all()


def test_new_scenes_move_the_ranks_of_old_ones_whose_rarity_is_kept(location):
    before = ranked(location, [exact(location)])
    append_rows(location, SCENES, scene_rows(10, 1000))
    found = [rarity_of_part(location, newest(location), "m1", None, NEIGHBOURS, part, 2) for part in range(2)]
    assert sum(len(addresses) for addresses, _ in found) == 8, "the new ones with a vector, and no others"
    after = ranked(location, found)
    assert (after["ranked_among"] == 70).all()
    old = [list(after["scene_id"]).index(scene) for scene in before["scene_id"]]
    np.testing.assert_array_equal(after["rarity"][old], before["rarity"])
    assert not np.array_equal(after["rarity_rank"][old], before["rarity_rank"])
    np.testing.assert_allclose(after["rarity_rank"], percentile_ranks(after["rarity"]), atol=1e-6)
    assert len(read_signals(location.dataset(SCENES), "m1").risk) == 70


def test_a_ranking_that_maintenance_overtook_is_told_so_and_changes_nothing(location):
    dataset = location.dataset(SCENES)
    ranks = rank_rows(location, dataset.version, "m1", WEIGHTS, [exact(location)])
    location.dataset(SCENES).optimize.compact_files()
    before = location.dataset(SCENES).count_rows()
    with pytest.raises(ConflictError, match="nothing was committed"):
        commit_updated(location, SCENES, *ranks, dataset.version)
    assert num_unranked(location, "m1") == 60 and location.dataset(SCENES).count_rows() == before
    append_rows(location, SCENES, scene_rows(1, 2000))  # a miner's commit is no conflict
    assert (ranked(location, [exact(location)])["ranked_among"] == 61).all()


def test_an_old_run_is_looked_up_again(location):
    ranked(location, [exact(location)])
    addresses, _ = rarity_of_part(location, newest(location), "m1", "r1", NEIGHBOURS, 0, 1)
    assert len(addresses) == 48
    assert len(rarity_of_part(location, newest(location), "m1", "it's another", NEIGHBOURS, 0, 1)[0]) == 0
    assert len(rarity_of_part(location, newest(location), "m1", "r1", NEIGHBOURS, 8, 9)[0]) == 0, (
        "more parts than fragments"
    )


def test_each_old_run_has_its_turn():
    assert run_to_refresh([]) is None and run_to_refresh(["new"]) is None
    nights: list[str] = []
    refreshed = Counter[str]()
    for k in range(200):
        nights.insert(0, f"r{k}")
        if (run := run_to_refresh(nights)) is not None:
            assert run in nights[1:]
            refreshed[run] += 1
    assert len(refreshed) > 80 and max(refreshed.values()) < 12
