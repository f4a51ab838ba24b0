"""Claims about the whole SceneMiner: its zero-shot start, its batches, and what it saves."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from system.backbones.loading import load_tower
from system.backbones.runtime import Runtime
from system.errors import ConfigError, DataError, ModelError
from system.miner.identity import CONFIG_NAME, WEIGHTS_NAME, saved_model_id, untrained_model_id
from system.miner.miner_config import OwnHead
from system.miner.model import SceneMiner, SceneMinerConfig, SceneOutputs
from system.miner.tags import embed_taxonomy, zero_shot_logits
from system.miner.taxonomy import load_taxonomy
from tests.fake_tower import FakeTower, fake_batch

CONFIG = SceneMinerConfig(stream_dim=32, head_parameters=8_000)
TAXONOMY = load_taxonomy()


def untrained(tower: FakeTower | None = None) -> SceneMiner:
    return SceneMiner.untrained(tower or FakeTower(), CONFIG, TAXONOMY)


def trained(with_risk: bool = True) -> SceneMiner:
    """A model whose heads answer something, as if trained."""
    model = untrained()
    for head in ("embedding", "tags", "forecast", *(["risk"] if with_risk else [])):
        model.add_reader(head)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def assert_same(a: SceneOutputs, b: SceneOutputs) -> None:
    for name in vars(a):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, equal_nan=True)


def test_before_training_embedding_and_tags_are_the_towers_zero_shot_answers_exactly():
    tower, batch = FakeTower(), fake_batch([3, 1, 5])
    outputs = untrained(tower)(batch)
    pooled = FakeTower().encode_images(batch.images_MHWC).pooled_NE
    for n in range(3):
        expected = F.normalize(pooled[batch.scene_M == n].mean(0), dim=-1)
        assert torch.equal(outputs.embedding_NE[n], expected)
    logits = zero_shot_logits(pooled, [3, 1, 5], embed_taxonomy(FakeTower(), TAXONOMY, CONFIG.tag_scale))
    assert torch.equal(outputs.tag_probabilities_NK, torch.sigmoid(logits))


def test_the_packaged_tower_is_answered_exactly_too_and_the_rest_of_the_forward_costs_little_beside_it():
    tower = load_tower("packaged", Runtime(threads=1))
    generator = torch.Generator().manual_seed(0)
    count, (height, width) = 39, tower.input_size
    batch = replace(
        fake_batch([30, 9]),
        images_MHWC=torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator),
    )
    model = SceneMiner.untrained(tower, SceneMinerConfig(), TAXONOMY)
    started = time.perf_counter()
    answer = tower.encode_images(batch.images_MHWC)
    tower_s = time.perf_counter() - started
    tower.encode_images = lambda images: answer
    model(batch)
    started = time.perf_counter()
    outputs = model(batch)
    assert time.perf_counter() - started < 0.05 * tower_s
    for n, pooled in enumerate(answer.pooled_NE.split([30, 9])):
        assert torch.equal(outputs.embedding_NE[n], F.normalize(pooled.mean(0), dim=-1))
    logits = zero_shot_logits(answer.pooled_NE, [30, 9], embed_taxonomy(tower, TAXONOMY, 100.0))
    assert torch.equal(outputs.tag_probabilities_NK, torch.sigmoid(logits))


def test_each_picture_passes_the_tower_once():
    tower = FakeTower()
    untrained(tower)(fake_batch([3, 0, 5]))
    assert tower.images_seen == 8


def test_a_scene_gets_the_same_answer_alone_and_in_company():
    model, batch = trained(), fake_batch([2, 4])
    alone = replace(
        batch,
        **{
            name: getattr(batch, name)[2:]
            for name in ("images_MHWC", "time_s_M", "intrinsics_M33", "ego_from_camera_M44", "is_calibrated_M")
        },
        scene_M=torch.zeros(4, dtype=torch.long),
        ego_N3=batch.ego_N3[1:],
        num_scenes=1,
    )
    together, single = model(batch), model(alone)
    for name in vars(single):
        torch.testing.assert_close(getattr(together, name)[1:], getattr(single, name), rtol=1e-4, atol=1e-5)


def test_the_same_batch_gives_the_same_bits():
    model = trained()
    assert_same(model(fake_batch([2, 4])), model(fake_batch([2, 4])))


@pytest.mark.parametrize("pictures", [[2, 0, 1], [0], [0, 0]])
def test_a_scene_without_pictures_has_a_forecast_and_nothing_else(pictures):
    outputs = trained()(fake_batch(pictures))
    for n, count in enumerate(pictures):
        for values in (outputs.embedding_NE, outputs.tag_probabilities_NK, outputs.risk_N):
            assert values[n].isnan().all() if count == 0 else values[n].isfinite().all()
        assert outputs.forecast_NMT2[n].isfinite().all() and outputs.ambiguity_N[n] > 0


def test_without_ego_motion_there_is_no_forecast_and_all_else():
    batch = fake_batch([2, 2])
    batch.ego_N3[0] = torch.nan
    outputs = trained()(batch)
    assert outputs.ambiguity_N[0].isnan() and outputs.forecast_NMT2[0].isnan().all()
    assert outputs.embedding_NE.isfinite().all() and outputs.ambiguity_N[1].isfinite()


def test_risk_is_unknown_until_there_is_a_trained_head():
    model = untrained()
    assert not model.has_risk_head and model(fake_batch([2])).risk_N.isnan().all()
    outputs = trained()(fake_batch([2, 2]))
    assert ((outputs.risk_N >= 0) & (outputs.risk_N < 1)).all()
    with pytest.raises(ConfigError, match=r"no head 'riks'.*it has embedding, tags, risk, forecast"):
        trained().add_reader("riks")


def test_a_users_own_head_answers_its_own_tags_and_no_name_is_taken_twice(tmp_path: Path):
    model = trained()
    model.add_own_head(OwnHead(name="train", tags=("tram",)))  # also what a module's own method is called
    model.add_own_head(OwnHead(name="animals", tags=("deer", "dog")))
    model.add_reader("animals").out.bias.data[:] = torch.tensor([1.0, -1.0])
    outputs = model(fake_batch([2, 0]))
    assert model.own_tags == ("tram", "deer", "dog") and outputs.own_probabilities_NL.shape == (2, 3)
    assert outputs.own_probabilities_NL[0, 1] > 0.5 > outputs.own_probabilities_NL[0, 2]
    assert outputs.own_probabilities_NL[1].isnan().all()
    model.save(tmp_path / "m")
    assert_same(outputs, SceneMiner.load(tmp_path / "m", FakeTower())(fake_batch([2, 0])))
    with pytest.raises(ConfigError, match="has a head 'animals' already"):
        model.add_own_head(OwnHead(name="animals", tags=("cat",)))
    with pytest.raises(ConfigError, match="tags of that name: deer, night"):
        model.add_own_head(OwnHead(name="more", tags=("cat", "night", "deer")))
    with pytest.raises(ConfigError, match="exists in every model"):
        OwnHead.parse({"name": "risk", "tags": ["x"]}, "heads.toml")


def test_outputs_have_the_stated_shapes_and_need_no_gradient():
    outputs = trained(with_risk=False)(fake_batch([2, 2]))
    shapes = {name: tuple(value.shape) for name, value in vars(outputs).items()}
    assert shapes == {
        "embedding_NE": (2, 16),
        "tag_probabilities_NK": (2, 20),
        "own_probabilities_NL": (2, 0),
        "risk_N": (2,),
        "forecast_NMT2": (2, 6, 6, 2),
        "forecast_probability_NM": (2, 6),
        "ambiguity_N": (2,),
    }
    assert not any(value.requires_grad or value.dtype != torch.float32 for value in vars(outputs).values())


def test_heads_are_private_no_gradient_of_one_reaches_another():
    model = trained().requires_grad_(True)
    features = model.encode(fake_batch([2, 3]))
    private = {"embedding_NE": "embedding", "tag_probabilities_NK": "tags", "risk_N": "risk", "ambiguity_N": "forecast"}
    for output, head in private.items():
        model.zero_grad(set_to_none=True)
        getattr(model.answer(features), output).sum().backward()
        touched = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert touched == {"stream", head}


def test_the_tower_is_no_part_of_the_models_weights():
    assert not any("tower" in name for name in untrained().state_dict())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"images_MHWC": torch.zeros(4, 30, 28, 3, dtype=torch.uint8)}, "wrong_shape"),
        ({"images_MHWC": torch.zeros(4, 28, 28, 3)}, "wrong_shape"),
        ({"time_s_M": torch.zeros(3)}, "wrong_shape"),
        ({"ego_N3": torch.zeros(1, 3)}, "wrong_shape"),
        ({"scene_M": torch.tensor([0, 0, 1, 2])}, "wrong_scene_index"),
        ({"scene_M": torch.tensor([0, 1, 0, 1])}, "wrong_scene_index"),
        ({"scene_M": torch.tensor([-1, 0, 0, 1])}, "wrong_scene_index"),
        ({"is_calibrated_M": torch.ones(4, dtype=torch.bool)}, "impossible_calibration"),
        (
            {
                "is_calibrated_M": torch.tensor([True, False, False, False]),
                "intrinsics_M33": torch.zeros(4, 3, 3),
                "ego_from_camera_M44": torch.eye(4).repeat(4, 1, 1),
            },
            "impossible_calibration",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_expected_and_actual(change, code):
    with pytest.raises(DataError, match="expected") as caught:
        untrained()(replace(fake_batch([2, 2]), **change))
    assert caught.value.code == code


# Saving and loading.


@pytest.mark.parametrize("with_risk", [False, True])
def test_a_saved_model_answers_the_same_bits(tmp_path: Path, with_risk: bool):
    model, batch = trained(with_risk), fake_batch([2, 3])
    model_id = model.save(tmp_path / "m")
    loaded = SceneMiner.load(tmp_path / "m", FakeTower())
    assert loaded.has_risk_head == with_risk and loaded.taxonomy == TAXONOMY and loaded.config == CONFIG
    assert model_id == model.model_id == loaded.model_id == saved_model_id(tmp_path / "m", "fake-1")
    assert_same(model(batch), loaded(batch))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_id_is_known_without_the_model_and_moves_with_the_weights(tmp_path: Path):
    model = trained()
    assert untrained().model_id == untrained_model_id("fake-1", CONFIG, TAXONOMY)
    first, again = model.save(tmp_path / "a"), trained().save(tmp_path / "b")
    assert first == again
    model.tags.readers[0].out.bias.data[3] += 1e-6
    assert model.save(tmp_path / "a") != first


def test_untrained_models_are_equal_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    a, b = untrained(), untrained()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def rewrite_config(folder: Path, **changes) -> None:
    file = folder / CONFIG_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Exchange the weights and their hash, as a wrong exporter would."""
    save_file(tensors, folder / WEIGHTS_NAME)
    rewrite_config(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest())


def test_every_mismatch_is_refused_by_name(tmp_path: Path):
    def saved() -> Path:
        trained().save(tmp_path / "m")
        return tmp_path / "m"

    def refused(match: str, tower: FakeTower | None = None) -> None:
        with pytest.raises(ModelError, match=match):
            SceneMiner.load(tmp_path / "m", tower or FakeTower())

    refused("cannot be read")
    folder = saved()
    refused("made for the tower fake with id fake-1, the one at hand has id fake-2", FakeTower("fake-2"))
    (folder / WEIGHTS_NAME).write_bytes((folder / WEIGHTS_NAME).read_bytes()[:-1])
    refused("damaged or exchanged")
    (folder / WEIGHTS_NAME).unlink()
    refused(f"{WEIGHTS_NAME}: cannot be read")
    rewrite_config(saved(), format="nightminer.scene_miner.v9")
    refused("format")
    rewrite_config(saved(), surprise=1)
    refused("surprise")
    rewrite_config(saved(), patch_dim=99)
    refused("widths")
    (saved() / CONFIG_NAME).write_text("{")
    refused("expected JSON")
    (saved() / CONFIG_NAME).write_text("[1]")
    refused("expected a SceneMiner")

    tensors = load_file(saved() / WEIGHTS_NAME)
    name = "tags.readers.0.out.bias"
    rewrite_weights(folder, {key: value for key, value in tensors.items() if key != name})
    refused(rf"missing tensors \['{name}'\]")
    rewrite_weights(folder, tensors | {"more": torch.zeros(1)})
    refused(r"unknown tensors \['more'\]")
    rewrite_weights(folder, tensors | {name: torch.zeros(3)})
    refused(rf"{name} is torch.float32 \(3,\), expected torch.float32 \(20,\)")
    rewrite_weights(folder, tensors | {name: tensors[name].double()})
    refused("float64")
    rewrite_weights(folder, tensors | {name: tensors[name] * torch.nan})
    refused(f"{name} holds values that are not finite")
    (folder / WEIGHTS_NAME).write_bytes(b"not safetensors")
    rewrite_config(folder, weights_sha256=hashlib.sha256(b"not safetensors").hexdigest())
    refused("expected safetensors")


def test_a_model_that_went_wrong_in_training_is_not_saved(tmp_path: Path):
    model = trained()
    model.stream.mean_in.weight.data[0, 0] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        untrained().save(tmp_path / "file")


def test_an_impossible_config_is_refused():
    with pytest.raises(ConfigError, match="multiple of attention_heads"):
        SceneMinerConfig.parse({"stream_dim": 30}, "test")
