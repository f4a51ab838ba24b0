"""One step of distillation, its schedule, its estimate, and what it refuses."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path

import pytest
import timm
import torch

from system.backbones.vit import block_features, load_vit, normalise, set_normalisation, twin, vit_facts
from system.errors import ConfigError, ModelError
from system.freqkd.adapters import adapter_parameters, adapter_state
from system.freqkd.distiller import DistillConfig, Distiller, is_flipped, loss_names, order_of, teacher_features
from system.freqkd.estimate import estimate, meta_student
from system.freqkd.losses import LossConfig
from system.freqkd.recipes import vit_l_paper
from system.pairs.pixels import InfraredMapping
from system.pipelines.teacher_cache import TeacherCache, kept_as, key_of

BANDED = LossConfig(kind="freqkd")
SMALL = DistillConfig(
    height=48, width=64, blocks=(1, 3), rank=4, batch_size=4, learning_rate=3e-3, loss=BANDED, tower="timm:test_vit"
)


def vit():
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()


def pictures(seed: int, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 48, 64, 3), dtype=torch.uint8, generator=generator)


INFRARED = pictures(1)
TAUGHT = teacher_features(vit(), pictures(2), (1, 3))


def run(steps: int, config: DistillConfig = SMALL, total: int = 20, **changes: object) -> Distiller:
    distiller = Distiller(vit(), config.model_copy(update=changes), total)
    for _ in range(steps):
        distiller.step(INFRARED, TAUGHT)
    return distiller


def same(a: Distiller, b: Distiller) -> bool:
    ours, theirs = adapter_state(a.student), adapter_state(b.student)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_loss_falls_and_is_told_by_band_and_block():
    distiller = Distiller(vit(), SMALL, 30)
    losses = [distiller.step(INFRARED, TAUGHT) for _ in range(30)]
    assert losses[-1]["total"] < 0.8 * losses[0]["total"]
    assert set(losses[0]) == {"total", "low/1", "high/1", "low/3", "high/3", "lr"}
    assert [name for name in losses[0] if name != "lr"] == loss_names(SMALL)


def test_the_same_steps_give_the_same_bits_and_another_seed_others():
    assert same(run(3), run(3)) and not same(run(3), run(3, seed=1))


def test_a_restored_training_goes_on_to_the_same_bits():
    whole, first, second = run(6), run(3), run(0)
    second.restore(first.state())
    assert same(first, second)
    for _ in range(3):
        second.step(INFRARED, TAUGHT)
    assert same(whole, second) and second.steps_done == 6


def test_pieces_and_shares_of_a_batch_give_the_gradient_of_the_whole():
    whole, pieces = run(2), run(2, accumulate=3)
    for name, tensor in adapter_state(whole.student).items():
        torch.testing.assert_close(adapter_state(pieces.student)[name], tensor, rtol=1e-3, atol=1e-5)
    # Two workers' shares of one batch: each sees its own sums, which add up to those of the whole batch.
    seen: list[torch.Tensor] = []
    for rank in range(2):
        share = Distiller(vit(), SMALL, 20)
        rows = list(range(rank, 4, 2))
        share.step(INFRARED[rows], [f[rows] for f in TAUGHT], None, rows, 4, lambda tensor: seen.append(tensor.clone()))
    one = Distiller(vit(), SMALL, 20)
    alone: list[torch.Tensor] = []
    one.step(INFRARED, TAUGHT, None, range(4), 4, lambda tensor: alone.append(tensor.clone()))
    torch.testing.assert_close(seen[0] + seen[2], alone[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(seen[1] + seen[3], alone[1], rtol=1e-4, atol=1e-7)


def test_an_empty_share_takes_part_in_the_step_of_the_others():
    distiller = Distiller(vit(), SMALL, 20)
    none = [f[:0] for f in TAUGHT]
    losses = distiller.step(INFRARED[:0], none, None, [], 4, lambda tensor: tensor.add_(0.0))
    assert losses["total"] == 0 and distiller.steps_done == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_about_the_same(precision: str):
    half, whole = (Distiller(vit(), SMALL.model_copy(update={"precision": p}), 9) for p in (precision, "fp32"))
    ours, theirs = ([d.step(INFRARED, TAUGHT)["total"] for _ in range(4)] for d in (half, whole))
    assert ours == pytest.approx(theirs, rel=0.05) and ours[-1] < ours[0]
    again = Distiller(vit(), half.config, 9)
    again.restore(half.state())
    assert again.step(INFRARED, TAUGHT)["total"] == half.step(INFRARED, TAUGHT)["total"]


def test_the_rate_warms_up_within_a_tenth_and_ends_at_its_lowest():
    long, short = Distiller(vit(), SMALL, 100_000), Distiller(vit(), SMALL, 100)
    assert long.learning_rate(0) == pytest.approx(0.01 * 3e-3)
    assert long.learning_rate(499) < 3e-3 == pytest.approx(long.learning_rate(500))
    assert short.learning_rate(10) == pytest.approx(3e-3)
    assert short.learning_rate(100) == pytest.approx(1e-7)
    rates = [short.learning_rate(step) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_patches_that_do_not_count_change_nothing():
    valid = torch.ones(4, 3, 4, dtype=torch.bool)
    valid[:, :, 0] = False
    config = SMALL.model_copy(update={"loss": LossConfig(kind="mse")})
    spoilt = [f.clone() for f in TAUGHT]
    for features in spoilt:
        features[..., 0] = 1e3
    totals = [Distiller(vit(), config, 9).step(INFRARED, taught, valid)["total"] for taught in (TAUGHT, spoilt)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)


def test_a_loss_that_is_no_number_names_the_step_and_what_to_try():
    distiller = run(2)
    broken = [f * math.nan for f in TAUGHT]
    with pytest.raises(ModelError, match=r"step 3 of 20: .*(learning rate|broken pictures)"):
        distiller.step(INFRARED, broken)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"blocks 1,40: expected at least one, each in 0\.\."):
        Distiller(vit(), SMALL.model_copy(update={"blocks": (1, 40)}), 1)
    with pytest.raises(ConfigError, match="1 block weights for 2 blocks"):
        Distiller(vit(), SMALL.model_copy(update={"block_weights": (1.0,)}), 1)
    with pytest.raises(ModelError, match=r"step 1 of 9: block 1: the student's features are \[4, 64"):
        Distiller(vit(), SMALL, 9).step(INFRARED, [f[:, :32] for f in TAUGHT])
    for values, words in (
        ({"loss": {"cutoff": 1.5}}, "loss.cutoff"),
        ({"blocks": ()}, "blocks"),
        ({"epoch": 1}, "epoch"),
    ):
        with pytest.raises(ConfigError, match=words):
            DistillConfig.parse(values, "options")


def test_orders_and_flips_depend_on_seed_and_epoch_alone():
    assert sorted(order_of(0, 1, 50)) == list(range(50))
    assert order_of(0, 1, 50) == order_of(0, 1, 50) != order_of(0, 2, 50) != order_of(1, 1, 50)
    flips = [is_flipped(0, 0, pair) for pair in range(1000)]
    assert 430 < sum(flips) < 570 and flips != [is_flipped(0, 1, pair) for pair in range(1000)]


def test_the_papers_setting_can_be_built_and_its_cost_told_without_weights():
    model = meta_student(vit_l_paper())
    assert next(model.parameters()).device.type == "meta"
    told = estimate(vit_l_paper(), pairs=50_000, tflops=100, workers=4)
    assert told.tokens == 37 * 46 + 1 and told.parameters == pytest.approx(304e6, rel=0.01)
    # Of each of 24 blocks: qkv d + 3d, fc1 and fc2 d + 4d each.
    assert told.trained_parameters == 24 * 64 * 1024 * (4 + 5 + 5)
    assert estimate(vit_l_paper(), 50_000, 100, 1).seconds_per_epoch == pytest.approx(4 * told.seconds_per_epoch)
    for values in ({"blocks": (7, 24)}, {"tower": "timm:resnet18"}):
        with pytest.raises(ConfigError):
            estimate(vit_l_paper().model_copy(update=values), 10, 100)
    with pytest.raises(ConfigError, match="expected more than 0"):
        estimate(vit_l_paper(), 10, 0)


def test_the_estimate_of_activations_is_what_backward_keeps():
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    distiller = Distiller(vit(), SMALL, 9)
    weights = {parameter.untyped_storage().data_ptr() for parameter in distiller.student.parameters()}
    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or note(t), lambda t: t):
        distiller.step(INFRARED, TAUGHT)
    measured = sum(size for place, size in kept.items() if place not in weights)
    assert estimate(SMALL, 4, 1).activation_bytes == pytest.approx(measured, rel=0.25)


def test_flops_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = vit()
    with FlopCounterMode(display=False) as counted:
        teacher_features(model, INFRARED[:1], (1, 3))
    told = estimate(SMALL, 4, 1)
    assert told.teacher_operations == pytest.approx(counted.get_total_flops(), rel=0.1)


def test_features_that_are_no_numbers_are_not_kept_as_large_ones():
    (kept,) = kept_as([torch.tensor([1.0, 1e6, torch.inf, -torch.inf, torch.nan])])
    assert kept.isfinite().tolist() == [True, True, False, False, False]


def test_cached_features_come_back_as_they_were_kept_and_the_oldest_go_first(tmp_path: Path):
    cache = TeacherCache(tmp_path, "a teacher", 100_000)
    keys = [key_of(pictures(seed, 1)[0]) for seed in range(40)]
    assert len(set(keys)) == 40 and key_of(pictures(0, 1)[0].flip(1)) not in keys
    features = kept_as([torch.randn(8, 16, 16), torch.full((4, 2, 2), 1e6)])
    assert cache.get(keys[0]) is None
    for key in keys:
        cache.put(key, features)
        cache.get(keys[0])
    again = TeacherCache(tmp_path, "a teacher", 100_000)
    found = again.get(keys[0])
    assert found is not None and all(torch.equal(a, b) for a, b in zip(found, features, strict=True))
    assert again.get(keys[1]) is None and again.get(keys[-1]) is not None
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 100_000
    assert TeacherCache(tmp_path, "another", 100_000).get(keys[0]) is None


def test_a_damaged_or_removed_file_of_the_cache_is_computed_again(tmp_path: Path):
    cache = TeacherCache(tmp_path, "a teacher", 10**6)
    cache.put("aa11", [torch.ones(2)])
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:20])
    assert cache.get("aa11") is None
    cache.put("aa11", [torch.ones(2)])
    assert cache.get("aa11") is not None
    file.unlink()
    assert cache.get("aa11") is None
    shutil.rmtree(tmp_path)
    cache.put("aa11", [torch.ones(2)])
    assert cache.get("aa11") is not None
    off = TeacherCache(tmp_path / "off", "a teacher", 0)
    off.put("aa11", [torch.ones(2)])
    assert off.get("aa11") is None and not (tmp_path / "off").exists()


def test_drafts_of_a_killed_worker_are_cleared_away_and_a_full_disk_leaves_none(tmp_path: Path, monkeypatch):
    cache = TeacherCache(tmp_path, "a teacher", 10**6)
    cache.put("aa11", [torch.ones(2)])
    folder = next(tmp_path.rglob("*.safetensors")).parent
    stale, fresh = folder / "old.part", folder / "new.part"
    for draft, age_s in ((stale, 3600), (fresh, 0)):
        draft.write_bytes(b"half")
        os.utime(draft, (time.time() - age_s,) * 2)
    TeacherCache(tmp_path, "a teacher", 10**6).put("aa22", [torch.ones(2)])
    assert not stale.exists() and fresh.exists()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.put("aa33", [torch.ones(2)])
    assert list(tmp_path.rglob("*.part")) == [fresh] and cache.get("aa33") is None


def test_a_first_step_without_a_picture_of_its_own_waits_for_the_others_in_half_precision():
    distiller = Distiller(vit(), SMALL.model_copy(update={"precision": "fp16"}), 9)
    losses = distiller.step(INFRARED[:0], [f[:0] for f in TAUGHT], None, [], 2, sum_over_workers=lambda _: None)
    assert losses["total"] == 0 and distiller.steps_done == 1


def test_a_twin_of_the_student_teaches_before_and_after_it_has_learnt():
    student = vit()
    teacher = twin(student)
    before = teacher_features(teacher, INFRARED, (1, 3))
    distiller = Distiller(student, SMALL, 9)
    distiller.step(INFRARED, TAUGHT)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher_features(teacher, INFRARED, (1, 3)), strict=True))


def test_the_export_gives_timm_and_transformers_the_same_features(tmp_path: Path):
    from safetensors.torch import load_file
    from transformers import AutoModel

    from system.training.distill_publish import DistillRecord, write_student
    from system.training.student import load_backbone

    config = DistillConfig(height=60, width=80, blocks=(0, 2), rank=4)
    student = load_vit(config.tower)
    Distiller(student, config, 1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(student).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    record = DistillRecord(
        config=config, uris=("pairs",), licence="research only", pairs={"pairs": 4}, data_sha256="0" * 64, skipped=(),
            mapping=InfraredMapping(),
        left_out=0, loss={"total": 1.0}, images=4, seconds=1.0, created="", commit="", libraries={},
    )  # fmt: skip
    history = [
        {"epoch": 1.0, "step": float(k), "steps": 1.0, "total": 1.0 / k, "low/0": 1.0, "lr": 1e-4} for k in (1, 2)
    ]
    set_normalisation(student, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    write_student(tmp_path, student.eval(), record, history)
    ours = load_vit(f"timm:vit_small_patch14_dinov2@{tmp_path}/merged.safetensors")
    assert vit_facts(load_backbone(str(tmp_path))) == vit_facts(ours) == vit_facts(student)
    images = normalise(pictures(3, 1).repeat(1, 2, 2, 1)[:, :70, :84], vit_facts(ours))
    expected = block_features(ours, images, [11])[0].flatten(2).transpose(1, 2)
    theirs = AutoModel.from_pretrained(tmp_path / "transformers").eval()
    plain = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=(70, 84)).eval()
    plain.load_state_dict(load_file(tmp_path / "merged.safetensors") | load_file(tmp_path / "positions.safetensors"))
    native = timm.create_model(
        "vit_small_patch14_dinov2", num_classes=0, checkpoint_path=str(tmp_path / "merged.safetensors")
    )
    with torch.no_grad():
        hidden = theirs(images, output_hidden_states=True).hidden_states[-1][:, 1:]
        unnormed = plain.forward_intermediates(images, indices=[11], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(unnormed.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(native.blocks[2].mlp.fc1.weight, ours.blocks[2].mlp.fc1.weight)
    card = (tmp_path / "README.md").read_text()
    assert "research only" in card and (tmp_path / "curves.png").stat().st_size > 5000
