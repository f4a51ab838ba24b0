"""Claims about the feature cache: what is written comes back in any order; damage is named and costs one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from system.errors import ConfigError, DataError
from system.logs.windows import WindowConfig
from system.miner.lift import LiftedScenes, lift_scenes
from system.pipelines.feature_cache import FeatureCache
from tests.fake_tower import FakeTower, fake_batch

WINDOWS = WindowConfig()


def lifted(pictures_of_scene: list[int], seed: int = 0) -> LiftedScenes:
    return lift_scenes(FakeTower(), fake_batch(pictures_of_scene, seed), torch.device("cpu"))


def test_scenes_come_back_as_they_were_in_the_order_asked_for(tmp_path: Path):
    cache = FeatureCache(str(tmp_path), "tower", WINDOWS)
    first, second = lifted([2, 0, 3]), lifted([1], seed=1)
    cache.write(["a", "b", "c"], first)
    cache.write(["d"], second)
    back = cache.read(["d", "c", "b"])
    assert back.counts_N.tolist() == [1, 3, 0]
    assert torch.equal(back.pooled_ME, torch.cat([second.pooled_ME, first.pooled_ME[2:]]))
    assert torch.equal(back.tokens.mean_NKC[1], first.tokens.mean_NKC[2])
    assert torch.equal(back.ego_N3, torch.cat([second.ego_N3, first.ego_N3[[2, 1]]]))


def test_other_towers_and_windows_do_not_mix(tmp_path: Path):
    FeatureCache(str(tmp_path), "tower", WINDOWS).write(["a"], lifted([1]))
    assert not FeatureCache(str(tmp_path), "other", WINDOWS).scenes().where
    assert not FeatureCache(str(tmp_path), "tower", WindowConfig(length_s=2.0, stride_s=2.0)).scenes().where


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no safetensors", lambda b: b""])
def test_a_damaged_file_is_named_and_the_others_stay(tmp_path: Path, damage):
    cache = FeatureCache(str(tmp_path), "tower", WINDOWS)
    path = Path(cache.write(["a"], lifted([1])))
    cache.write(["b"], lifted([2]))
    path.write_bytes(damage(path.read_bytes()))
    found = cache.scenes()
    assert list(found.where) == ["b"] and path.name in found.damaged[0] and "delete it" in found.damaged[0]
    with pytest.raises(DataError, match="1 scenes are not there"):
        cache.read(["a", "b"])


def test_a_changed_byte_is_found_when_it_is_read(tmp_path: Path):
    cache = FeatureCache(str(tmp_path), "tower", WINDOWS)
    path = Path(cache.write(["a"], lifted([1])))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="not what its name says"):
        cache.read(["a"])


def test_a_cache_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="--cache nowhere://x"):
        FeatureCache("nowhere://x", "tower", WINDOWS)
