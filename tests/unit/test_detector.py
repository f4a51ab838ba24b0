"""Detectors learn, answer in the picture's pixels, are kept and found again, and go on where they stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.ops import box_iou

from system.backbones.cnn import build_cnn
from system.backbones.vit import block_features, build_vit
from system.errors import ConfigError, ModelError
from system.infrared.augment import Example, augmented, flipped
from system.infrared.backbone import BackboneFacts
from system.infrared.detections import Detections, Truth
from system.infrared.detector import Detector, detector_id
from system.infrared.detector_config import DetectorConfig
from system.infrared.detector_trainer import DetectorTrainConfig, DetectorTrainer
from system.infrared.export import export_onnx, largest_difference
from system.infrared.faster_rcnn import FasterRcnnHead
from system.infrared.targets import Target
from system.pairs.pixels import InfraredMapping
from system.training.backbone_export import BACKBONE_WEIGHTS_NAME, loading_lines, write_backbone
from system.training.detect_publish import DetectRecord, write_model
from system.training.infrared_task import DetectionTask
from system.training.publish import CARD_NAME

SIZE = (64, 96)


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return build_vit("test_vit")


def tiny_cnn() -> nn.Module:
    torch.manual_seed(0)
    network = build_cnn("test_resnet")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)  # timm begins the last ones at zero
    return network


def on_stages(**values: object) -> DetectorConfig:
    return config(**({"blocks": (0, 1, 2, 3)} | values))


def config(**values: object) -> DetectorConfig:
    given = {
        "classes": ("warm", "cold"),
        "height": SIZE[0],
        "width": SIZE[1],
        "blocks": (1, 3),
        "channels": 32,
        "convs": 1,
    }
    return DetectorConfig.parse(given | {"backbone": "none"} | values, "test")


def scene(seed: int) -> Example:
    """A warm square somewhere, a dark one elsewhere, on grey."""
    rng = np.random.default_rng(seed)
    picture = np.full(SIZE, 110, np.uint8)
    boxes = []
    for left, value in ((0, 255), (48, 0)):
        x, y = left + int(rng.integers(0, 24)), int(rng.integers(0, 40))
        picture[y : y + 22, x : x + 22] = value
        boxes.append((x, y, x + 22, y + 22))
    return Example(picture, Truth(np.array(boxes, np.float32), np.array([0, 1]), np.zeros(2, bool)))


def as_batch(examples: list[Example]) -> tuple[Tensor, list[Target]]:
    pictures = torch.from_numpy(np.stack([e.picture_HW for e in examples]))[..., None].expand(-1, -1, -1, 3)
    return pictures, [Target.of(e.truth) for e in examples]


def trained(detector: Detector, steps: int, **values: object) -> DetectorTrainer:
    trainer = DetectorTrainer(
        detector, DetectorTrainConfig.parse({"learning_rate": 3e-3, "ema_decay": 0.9} | values, "test"), steps
    )
    for step in range(steps):
        images, targets = as_batch([scene(4 * step + k) for k in range(4)])
        trainer.step(images, None, targets)
    return trainer


def test_fcos_learns_where_things_are():
    detector = trained(Detector.untrained(config(is_frozen=False), tiny_vit(), 0), 60).averaged()
    right = 0
    for seed in range(1000, 1010):
        example = scene(seed)
        (found,) = detector.detect([example.picture_HW])
        for label in (0, 1):
            mine = found.chosen(found.labels == label)
            if len(mine) and np.abs(mine.boxes_xyxy[mine.scores.argmax()] - example.truth.boxes_xyxy[label]).max() < 6:
                right += 1
    assert right >= 15


@pytest.mark.parametrize("seed", range(3))
def test_every_distance_of_fcos_has_a_gradient_at_the_start(seed: int):
    detector = Detector.untrained(config(), tiny_vit(), seed)
    boxes, _ = detector.head.raw(detector.features(as_batch([scene(seed)])[0]), detector.size)
    x1, y1, x2, y2 = boxes[0].T
    assert (x1 < x2).all() and (y1 < y2).all(), "none is cut at 0"


@pytest.mark.parametrize("backbone", ["vit", "cnn"])
def test_faster_rcnn_learns_where_things_are(backbone: str):
    network, made = (tiny_vit(), config) if backbone == "vit" else (tiny_cnn(), on_stages)
    detector = Detector.untrained(made(architecture="faster_rcnn", is_frozen=False), network, 0)
    trainer = DetectorTrainer(
        detector, DetectorTrainConfig(learning_rate=3e-3, ema_decay=0.5, warmup_steps=0, backbone_factor=1.0), 60
    )
    images, targets = as_batch([scene(0), scene(1)])
    losses = [trainer.step(images, None, targets) for _ in range(60)]
    assert {"objectness", "proposal_box", "classification", "box", "anchor", "total"} == losses[0].keys()
    assert losses[-1]["total"] < 0.5 * losses[0]["total"]
    for seed, found in enumerate(trainer.averaged().detect([scene(0).picture_HW, scene(1).picture_HW])):
        for label, truth in enumerate(scene(seed).truth.boxes_xyxy):
            # Summed in another order by other numbers of threads, the last bits differ, and with them the first box.
            best = torch.tensor(found.chosen(found.labels == label).boxes_xyxy[:5])
            assert box_iou(best, torch.tensor(truth[None])).max() > 0.4


@pytest.mark.parametrize("side", [14, 16])
def test_faster_rcnn_looks_where_its_boxes_lie(side: int):
    """Features are their own places in pixels, so that what is pooled moves as far as a box does."""
    facts = BackboneFacts("a ViT", (0.5,) * 3, (0.5,) * 3, (32,), (side,))
    head = FasterRcnnHead(facts, 32, 1)
    size = (20 * side, 30 * side)
    levels = {}
    for k, level_side in enumerate(head.pyramid.sides):
        rows, columns = (torch.arange(px // level_side) * level_side + level_side / 2 for px in size)
        levels[str(k)] = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None].float()
    for width in (60.0, 200.0):
        boxes = torch.tensor([[20.0, 30, 20 + width, 90], [140, 130, 140 + width, 190]])
        pooled = head.regions.box_roi_pool(levels, [boxes], [size]).mean((2, 3))
        torch.testing.assert_close(pooled[1] - pooled[0], torch.tensor([100.0, 120.0]), atol=0.01, rtol=0)


def test_fcos_learns_on_stages_of_a_network():
    detector = Detector.untrained(on_stages(), tiny_cnn(), 0)
    trainer = DetectorTrainer(detector, DetectorTrainConfig(learning_rate=3e-3, warmup_steps=0), 60)
    images, targets = as_batch([scene(0), scene(1)])
    features = detector.features(images)
    losses = [trainer.step(None, features, targets)["total"] for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    with pytest.raises(ConfigError, match="rf_detr on test_resnet: expected a vision transformer"):
        Detector.untrained(on_stages(architecture="rf_detr"), tiny_cnn(), 0)
    with pytest.raises(ConfigError, match=r"stages 0,4: a convolutional network has 0\.\.3"):
        Detector.untrained(on_stages(blocks=(0, 4)), tiny_cnn(), 0)
    with pytest.raises(ConfigError, match="multiples of 32 pixels"):
        Detector.untrained(on_stages(height=80), tiny_cnn(), 0)


@pytest.mark.parametrize("architecture", ["fcos", "faster_rcnn"])
def test_stages_that_are_no_neighbours_are_refused_of_a_network_alone(architecture: str):
    for stages, example in (((0, 2), "2,3"), ((1, 3), "2,3"), ((0, 1, 3), "1,2,3")):
        told = f"stages {','.join(map(str, stages))}: expected neighbours, e.g. {example}"
        with pytest.raises(ConfigError, match=told):
            Detector.untrained(on_stages(architecture=architecture, blocks=stages), tiny_cnn(), 0)
    for stages in ((1, 2), (2,)):
        Detector.untrained(on_stages(architecture=architecture, blocks=stages), tiny_cnn(), 0)
    Detector.untrained(config(architecture=architecture, blocks=(0, 3)), tiny_vit(), 0)


def test_a_network_that_learns_keeps_its_batch_norms_and_is_held_back():
    detector = Detector.untrained(on_stages(architecture="faster_rcnn", is_frozen=False), tiny_cnn(), 0)
    before = {name: tensor.clone() for name, tensor in detector.backbone.network.state_dict().items()}
    trainer = DetectorTrainer(detector, DetectorTrainConfig(warmup_steps=0, anchor_weight=0.5), 4)
    images, targets = as_batch([scene(0)])
    assert trainer.step(images, None, targets)["anchor"] == pytest.approx(0, abs=1e-5)
    assert trainer.step(images, None, targets)["anchor"] > 0
    norms = [n for n, m in detector.backbone.network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for name, tensor in detector.backbone.network.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name.rpartition(".")[0] in norms), name


@pytest.mark.parametrize(
    ("values", "is_left"), [({}, False), ({"is_frozen": False}, True), ({"merge": 0.25}, True)], ids=str
)
def test_a_backbone_is_left_where_it_lies_nowhere_else(tmp_path: Path, values: dict, is_left: bool):
    made = config(**values)
    record = DetectRecord(
        detector=made, config=DetectorTrainConfig(), train=("pictures.json",), val=None, licence="CC0",
        objects={"person": 3}, pictures=2, data_sha256="0" * 64, trained_parameters=1, figures={"loss": 1.0},
        skipped=(), left_out=0, seconds=1.0, created="2026-01-01", commit="", libraries={},
    )  # fmt: skip
    model = Detector.untrained(made, tiny_vit(), 0)
    write_model(tmp_path, DetectionTask(), model, record, [{"epoch": 1.0, "loss": 1.0}])
    assert (tmp_path / BACKBONE_WEIGHTS_NAME).is_file() == is_left
    assert (BACKBONE_WEIGHTS_NAME in (tmp_path / CARD_NAME).read_text()) == is_left


@pytest.mark.parametrize("kind", ["vit", "cnn"])
def test_a_backbone_that_learnt_is_left_as_timm_loads_it(kind: str, tmp_path: Path):
    made, network = (config, tiny_vit()) if kind == "vit" else (on_stages, tiny_cnn())
    detector = Detector.untrained(made(is_frozen=False), network, 0)
    write_backbone(tmp_path, detector.backbone)
    written = str(tmp_path / BACKBONE_WEIGHTS_NAME)
    code = "\n".join(loading_lines(detector.backbone)[1:-1]).replace(BACKBONE_WEIGHTS_NAME, written)
    loaded: dict = {}
    exec(code, loaded)  # the lines of the model card
    images = as_batch([scene(0)])[0]
    with torch.no_grad():
        ours = detector.features(images)
        pixels = detector.backbone.pixels(images)
        theirs = loaded["model"].eval()(pixels) if kind == "cnn" else [block_features(loaded["model"], pixels, (3,))[0]]
    for a, b in zip(ours[-len(theirs) :], theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_rf_detr_learns_where_things_are():
    detector = Detector.untrained(config(architecture="rf_detr"), tiny_vit(), 0)
    trainer = DetectorTrainer(detector, DetectorTrainConfig(learning_rate=1e-3, ema_decay=0.5, warmup_steps=0), 400)
    images, targets = as_batch([scene(0), scene(1)])
    features = detector.features(images)
    losses = [trainer.step(None, features, targets) for _ in range(40)]
    assert {"classification", "box", "overlap", "inner", "total"} == losses[0].keys()
    assert losses[-1]["box"] < 0.85 * losses[0]["box"]
    for found in trainer.averaged().detect([scene(0).picture_HW, scene(1).picture_HW]):
        assert 0 < len(found) <= 100 and (found.boxes_xyxy <= [SIZE[1], SIZE[0]] * 2).all()


def test_detections_lie_in_the_pixels_of_their_own_picture():
    detector = trained(Detector.untrained(config(), tiny_vit(), 0), 12).averaged()
    example = scene(5)
    large = np.kron(example.picture_HW, np.ones((3, 2), np.uint8))
    small, big = detector.detect([example.picture_HW, large])
    assert big.image_size == (192, 192)
    np.testing.assert_allclose(small.resized((192, 192)).boxes_xyxy, big.boxes_xyxy, atol=0.2)
    assert detector.detect([]) == [] and len(Detections.none((3, 4))) == 0


def test_a_frozen_backbone_stays_and_cached_features_teach_the_same():
    vit = tiny_vit()
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    ours, theirs = (Detector.untrained(config(), tiny_vit(), 0) for _ in range(2))
    images, targets = as_batch([scene(0), scene(1)])
    a, b = (DetectorTrainer(detector, DetectorTrainConfig(), 4) for detector in (ours, theirs))
    for _ in range(2):
        told = a.step(images, None, targets)
        assert told == b.step(None, theirs.features(images), targets)
    kept = ours.backbone.vit.state_dict()
    assert all(torch.equal(kept[name], before[name]) for name in kept)
    assert all(not name.startswith("backbone.") for name in ours.trained_parameters())


def test_a_backbone_that_learns_is_slow_and_held_back():
    detector = Detector.untrained(config(is_frozen=False), tiny_vit(), 0)
    start = {name: p.detach().clone() for name, p in detector.named_parameters()}
    trainer = trained(detector, 3, anchor_weight=0.5, warmup_steps=0)
    images, targets = as_batch([scene(0)])
    assert trainer.step(images, None, targets)["anchor"] > 0
    moved = {name: float((p.detach() - start[name]).abs().max()) for name, p in detector.named_parameters()}
    backbone = max(value for name, value in moved.items() if name.startswith("backbone."))
    head = max(value for name, value in moved.items() if name.startswith("head."))
    assert 0 < backbone < 0.3 * head


@pytest.mark.parametrize("architecture", ["fcos", "faster_rcnn"])
def test_ignored_regions_neither_teach_nor_count(architecture: str):
    detector = Detector.untrained(config(architecture=architecture), tiny_vit(), 0)
    images, _ = as_batch([scene(0)])
    everywhere = np.array([[0, 0, SIZE[1], SIZE[0]]], np.float32)
    ignored = Target.of(Truth(everywhere, np.array([0]), np.ones(1, bool)))
    empty = Target.of(Truth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)))
    with torch.no_grad():
        features = detector.features(images)
        names = {"fcos": ["classification"], "faster_rcnn": ["objectness", "classification"]}[architecture]
        unasked, asked = detector.losses(features, [ignored]), detector.losses(features, [empty])
        for name in names:
            assert float(unasked[name]) == 0 and float(asked[name]) > 0


@pytest.mark.parametrize("architecture", ["fcos", "rf_detr"])
def test_a_kept_detector_answers_the_same_and_a_damaged_one_is_refused(tmp_path: Path, architecture: str):
    detector = Detector.untrained(config(architecture=architecture), tiny_vit(), 0)
    detector.save(tmp_path)
    again = Detector.load(tmp_path)
    images, _ = as_batch([scene(0)])
    for ours, theirs in zip(
        detector.head.raw(detector.features(images), SIZE), again.head.raw(again.features(images), SIZE), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    first = detector_id(tmp_path)
    weights = tmp_path / "detector.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"\x00\x01")
    with pytest.raises(ModelError, match=r"detector\.safetensors: damaged"):
        Detector.load(tmp_path)
    told = json.loads((tmp_path / "detector.json").read_text())
    (tmp_path / "detector.json").write_text(json.dumps(told | {"extra": 1}))
    with pytest.raises(ModelError, match=r"expected a detector saved as"):
        Detector.load(tmp_path)
    (tmp_path / "detector.json").write_text(json.dumps(told | {"weights_sha256": "0" * 64}))
    assert detector_id(tmp_path) != first
    with pytest.raises(ModelError, match="cannot be read"):
        Detector.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("architecture", "backbone"), [("faster_rcnn", "vit"), ("faster_rcnn", "cnn"), ("fcos", "cnn")]
)
def test_detectors_on_stages_and_with_proposals_are_kept_and_found_again(
    tmp_path: Path, architecture: str, backbone: str
):
    network, made = (tiny_vit(), config) if backbone == "vit" else (tiny_cnn(), on_stages)
    detector = Detector.untrained(made(architecture=architecture), network, 0)
    detector.save(tmp_path)
    pictures = [scene(0).picture_HW, scene(1).picture_HW]
    for ours, theirs in zip(detector.detect(pictures), Detector.load(tmp_path).detect(pictures), strict=True):
        assert len(ours) and np.array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
        assert np.array_equal(ours.scores, theirs.scores) and set(ours.labels) <= {0, 1}
    if architecture == "faster_rcnn":
        with pytest.raises(ModelError, match="faster_rcnn: cannot be written as ONNX, because it chooses boxes within"):
            export_onnx(detector, tmp_path / "d.onnx")
        assert not (tmp_path / "d.onnx").exists()


@pytest.mark.parametrize(
    ("precision", "architecture"),
    [("fp32", "fcos"), ("bf16", "fcos"), ("fp32", "faster_rcnn"), ("bf16", "faster_rcnn")],
)
def test_a_restored_training_goes_on_to_the_same_bits(precision: str, architecture: str):
    def new() -> DetectorTrainer:
        detector = Detector.untrained(config(is_frozen=False, architecture=architecture), tiny_vit(), 0)
        return DetectorTrainer(detector, DetectorTrainConfig(precision=precision), 6)

    batches = [as_batch([scene(2 * k), scene(2 * k + 1)]) for k in range(6)]
    whole, first, second = new(), new(), new()
    for images, targets in batches:
        whole.step(images, None, targets)
    for images, targets in batches[:3]:
        first.step(images, None, targets)
    torch.manual_seed(7)  # what a process has drawn before has no part in it
    second.restore(first.state())
    for images, targets in batches[3:]:
        second.step(images, None, targets)
    ours, theirs = second.state(), whole.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_half_precision_is_restored_with_its_scale():
    detector = Detector.untrained(config(), tiny_vit(), 0)
    first = DetectorTrainer(detector, DetectorTrainConfig(precision="fp16"), 4)
    images, targets = as_batch([scene(0)])
    first.step(images, None, targets)
    state = first.state()
    state["scaler/scale"].fill_(1024.0)
    second = DetectorTrainer(Detector.untrained(config(), tiny_vit(), 0), DetectorTrainConfig(precision="fp16"), 4)
    second.restore(state)
    assert second.state()["scaler/scale"] == 1024
    second.step(images, None, targets)


def test_anchors_stand_where_places_look_on_odd_grids_too():
    detector = Detector.untrained(config(height=80, width=112), tiny_vit(), 0)  # 5 x 7 patches of 16
    head = detector.head
    for number, (rows, columns, first, side) in enumerate([(10, 14, 4, 8), (5, 7, 8, 16), (3, 4, 8, 32)]):
        anchors = head._anchors(torch.zeros(1, 1, rows, columns), number)
        middle = (anchors[:, :2] + anchors[:, 2:]) / 2
        assert middle[0].tolist() == [first, first]
        assert middle[-1].tolist() == [first + side * (columns - 1), first + side * (rows - 1)]
        assert ((anchors[:, 2:] - anchors[:, :2]) == side).all()


def test_a_backbone_keeps_its_own_normalisation(tmp_path: Path):
    vit = tiny_vit()
    vit.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)  # type: ignore[index]
    detector = Detector.untrained(config(), vit, 0)
    detector.save(tmp_path)
    again = Detector.load(tmp_path)
    assert again.backbone.facts.mean == (0.1, 0.2, 0.3)
    images, _ = as_batch([scene(0)])
    torch.testing.assert_close(again.features(images), detector.features(images), rtol=0, atol=0)


def test_a_loss_that_is_no_number_stops_before_it_is_learnt():
    trainer = trained(Detector.untrained(config(), tiny_vit(), 0), 1)
    next(iter(trainer.detector.trained_parameters().values())).data.fill_(float("nan"))
    images, targets = as_batch([scene(0)])
    with pytest.raises(ModelError, match="step 2: the loss is no number"):
        trainer.step(images, None, targets)


@pytest.mark.parametrize(
    ("values", "words"),
    [({"height": 65}, "multiples of 16"), ({"blocks": (1, 99)}, "each in 0.."), ({"classes": ()}, "at least one"),
     ({"blocks": (3, 1)}, "rising"), ({"channels": 33}, "channels")],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(values: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        Detector.untrained(config(**values), tiny_vit(), 0)


def test_views_keep_boxes_on_what_they_show():
    for seed in range(40):
        example = scene(seed)
        view = augmented(example, "full", np.random.default_rng(seed))
        assert view.picture_HW.shape == SIZE and view.picture_HW.dtype == np.uint8
        for box, label, ignored in zip(view.truth.boxes_xyxy, view.truth.labels, view.truth.is_ignored, strict=True):
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= SIZE[1] and 0 <= y1 < y2 <= SIZE[0]
            if not ignored and min(x2 - x1, y2 - y1) > 8:
                inside = view.picture_HW[int(y1 + y2) // 2, int(x1 + x2) // 2]
                assert (inside > view.picture_HW.mean()) == (label == 0)
    twice = flipped(flipped(scene(1)))
    np.testing.assert_array_equal(twice.picture_HW, scene(1).picture_HW)
    np.testing.assert_allclose(twice.truth.boxes_xyxy, scene(1).truth.boxes_xyxy)
    assert augmented(scene(1), "none", np.random.default_rng(0)) is not None


@pytest.mark.parametrize("architecture", ["fcos", pytest.param("rf_detr", marks=pytest.mark.slow)])
def test_onnx_answers_as_torch_for_any_number_of_pictures(tmp_path: Path, architecture: str):
    onnxruntime = pytest.importorskip("onnxruntime")
    detector = Detector.untrained(config(architecture=architecture), tiny_vit(), 0)
    export_onnx(detector, tmp_path / "d.onnx")
    pictures = np.stack([scene(n).picture_HW for n in range(3)])
    told = largest_difference(detector, tmp_path / "d.onnx", pictures)
    assert told["scores"] < 1e-4 and told["boxes_px"] < 1e-2
    session = onnxruntime.InferenceSession(str(tmp_path / "d.onnx"), providers=["CPUExecutionProvider"])
    together = session.run(None, {"infrared": pictures})
    assert together[0].shape[0] == together[1].shape[0] == 3 and together[1].shape[2] == 2
    facts = session.get_modelmeta().custom_metadata_map
    assert InfraredMapping.model_validate_json(facts["mapping"]) == detector.config.mapping
