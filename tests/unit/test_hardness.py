"""Claims about percentile ranks, their fusion and semantic rarity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.errors import ConfigError
from system.miner import hardness
from system.miner.hardness import HardnessWeights, fuse, knn_rarity, percentile_ranks

# Few distinct values, so that ties are common; None is unknown.
VALUES = st.lists(st.one_of(st.none(), st.integers(-5, 5), st.floats(-1e6, 1e6)), max_size=40)


def array(values: list) -> np.ndarray:
    return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)


@given(VALUES)
def test_ranks_are_the_share_below_plus_half_of_the_equal_ones(values):
    x = array(values)
    known = x[~np.isnan(x)]
    expected = [np.nan if np.isnan(v) else ((known < v).sum() + 0.5 * (known == v).sum()) / len(known) for v in x]
    np.testing.assert_allclose(percentile_ranks(x), expected)


@given(VALUES, st.randoms())
def test_ranks_ignore_order_scale_and_unknown_neighbours(values, random):
    x = array(values)
    ranks = percentile_ranks(x)
    order = list(range(len(x)))
    random.shuffle(order)
    np.testing.assert_array_equal(percentile_ranks(x[order]), ranks[order])
    np.testing.assert_array_equal(percentile_ranks(8.0 * x), ranks)
    np.testing.assert_allclose(percentile_ranks(-x), 1 - ranks)
    np.testing.assert_array_equal(percentile_ranks(np.append(x, np.nan))[:-1], ranks)
    known = ranks[~np.isnan(ranks)]
    assert not len(known) or (np.isclose(known.mean(), 0.5) and known.min() > 0 and known.max() < 1)


def test_infinite_values_are_ranked_and_a_single_scene_is_in_the_middle():
    np.testing.assert_allclose(percentile_ranks([1.0, np.inf, -np.inf]), [0.5, 5 / 6, 1 / 6])
    assert percentile_ranks([3.0]).tolist() == [0.5]
    assert percentile_ranks([]).shape == (0,)


def test_hardness_is_the_weighted_mean_of_what_is_known():
    nan = np.nan
    fused = fuse(
        [1, 1, nan, nan], [0, nan, 0.5, nan], [0, nan, nan, nan], HardnessWeights(risk=2, ambiguity=1, rarity=1)
    )
    np.testing.assert_allclose(fused, [0.5, 0.75, 0.5, nan])
    np.testing.assert_allclose(fuse([0.9], [nan], [0.3], HardnessWeights(risk=0, ambiguity=1, rarity=1)), [0.4])


def test_weights_are_positive_somewhere_and_nowhere_negative():
    for wrong in ({"risk": 0, "ambiguity": 0, "rarity": 0}, {"risk": -1}, {"risk": float("inf")}, {"speed": 1}):
        with pytest.raises(ConfigError):
            HardnessWeights.parse(wrong, "test")


def test_rarity_is_the_distance_to_the_nearest_of_other_logs(monkeypatch):
    rng = np.random.default_rng(0)
    embeddings, logs = rng.normal(size=(60, 8)), rng.integers(0, 5, 60)
    embeddings[7] = np.nan
    embeddings[9] = 0.0
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    expected = []
    for i in range(60):
        others = [1 - unit[i] @ unit[j] for j in range(60) if logs[j] != logs[i] and j not in (7, 9)]
        expected.append(np.nan if i in (7, 9) else np.mean(sorted(others)[:4]))
    np.testing.assert_allclose(knn_rarity(embeddings, logs, 4), expected, atol=1e-5)
    monkeypatch.setattr(hardness, "_BLOCK_BYTES", 4 * 60 * 7)
    np.testing.assert_allclose(knn_rarity(embeddings, [f"log-{i}" for i in logs], 4), expected, atol=1e-5)


def test_scenes_of_the_same_log_never_make_each_other_common():
    twins = np.array([[1.0, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(knn_rarity(twins, ["a", "a", "b"], 1), [1, 1, 1], atol=1e-6)
    assert np.isnan(knn_rarity(twins, ["a", "a", "a"], 1)).all()
    assert knn_rarity(np.zeros((0, 4)), [], 3).shape == (0,)


def test_rarity_takes_what_there_is_where_neighbours_are_fewer_than_asked_for():
    np.testing.assert_allclose(knn_rarity(np.eye(3), [0, 1, 1], 50), [1, 1, 1], atol=1e-6)
