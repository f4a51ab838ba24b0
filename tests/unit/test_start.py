"""A training begins with what an earlier one learnt, or with the head of a published RF-DETR."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import RfDetrConfig, RfDetrForObjectDetection

from jobs import train_segmenter
from system.backbones.vit import set_normalisation
from system.errors import ConfigError, ModelError
from system.infrared.detector import Detector
from system.infrared.segmenter import Segmenter, SegmenterConfig
from system.infrared.start import begin, read_start
from system.training.detect import DetectSource, model_values, start_classes
from system.training.detect_run import DetectRun, FeatureReader, as_images, new_model
from system.training.infrared_task import DetectionTask
from system.training.segmentation_task import SegmentationTask
from tests.unit.test_detector import config, scene, tiny_vit, trained

CLASS_LAYER = "fcos.head.classification_head.cls_logits.weight"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    trained(Detector.untrained(config(), tiny_vit(), 0), 12).averaged().save(folder)
    return folder


def test_a_training_goes_on_from_a_detector_without_its_backbones_folder(earlier):
    ours = new_model(DetectionTask(), config(backbone="folder that is gone"), 5, str(earlier))
    for found, expected in zip(
        ours.detect([scene(3).picture_HW]), Detector.load(earlier).detect([scene(3).picture_HW]), strict=True
    ):
        assert len(found)
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_layers_of_other_classes_start_anew_and_all_others_are_taken(earlier):
    start = read_start(str(earlier), Detector)
    for classes in (("cold", "warm"), ("warm", "cold", "new")):
        head = begin(Detector, config(classes=classes), start, tiny_vit(), 1).head.state_dict()
        fresh = Detector.untrained(config(classes=classes), tiny_vit(), 1).head.state_dict()
        assert torch.equal(head[CLASS_LAYER], fresh[CLASS_LAYER])
        others = [key for key in head if "cls_logits" not in key]
        assert all(torch.equal(head[key], start.head[key]) for key in others)
        assert not all(torch.equal(head[key], fresh[key]) for key in others)


def test_a_segmenter_keeps_the_overlap_loss_of_its_start_unless_another_is_given(tmp_path):
    given = {"classes": ("background", "warm"), "height": 64, "width": 96, "blocks": (1, 3), "dice_weight": 0.5}
    Segmenter.untrained(SegmenterConfig.parse(given, "test"), tiny_vit(), 0).save(tmp_path)
    source = DetectSource(train=("t.json",), start=str(tmp_path))
    not_given = inspect.signature(train_segmenter.main).parameters["dice_weight"].default
    for weight, expected in ((not_given, 0.5), (0.0, 0.0)):
        assert model_values(SegmentationTask(), source, {"dice_weight": weight})["dice_weight"] == expected


def test_a_segmenter_goes_on_from_a_segmenter_alone(earlier, tmp_path):
    given = {"classes": ("background", "warm"), "height": 64, "width": 96, "blocks": (1, 3), "channels": 32, "convs": 1}
    asked = SegmenterConfig.parse(given | {"class_weights": (1.0, 2.0)}, "test")
    Segmenter.untrained(asked, tiny_vit(), 0).save(tmp_path)
    start = read_start(str(tmp_path), Segmenter)
    assert start.classes == asked.classes and "class_weights" not in start.values
    begun = begin(Segmenter, SegmenterConfig.parse(given, "test"), start, tiny_vit(), 9)
    assert all(torch.equal(value, start.head[key]) for key, value in begun.head.state_dict().items())
    with pytest.raises(ModelError, match=r"segmenter\.json"):
        read_start(str(earlier), Segmenter)


def test_the_backbone_of_a_start_sees_pictures_as_it_learnt_to(tmp_path):
    vit = tiny_vit()
    set_normalisation(vit, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    earlier = Detector.untrained(config(), vit, 0)
    earlier.save(tmp_path)
    ours = new_model(DetectionTask(), config(), 5, str(tmp_path))
    assert ours.backbone.facts == earlier.backbone.facts and ours.backbone.facts.mean == (0.1, 0.2, 0.3)
    pictures = as_images([torch.from_numpy(scene(3).picture_HW)])
    assert torch.equal(ours.backbone.pixels(pictures), earlier.backbone.pixels(pictures))

    run = DetectRun(cache=str(tmp_path / "features"))
    FeatureReader(ours, run), FeatureReader(Detector.untrained(config(), tiny_vit(), 0), run)
    assert len(list((tmp_path / "features").iterdir())) == 2, "the same weights, which see other pixels"


def test_the_start_decides_its_own_values_and_no_others(earlier):
    source = DetectSource(train=("t.json",), start=str(earlier))
    chosen = model_values(DetectionTask(), source, {"height": 128, "channels": 32, "backbone": None})
    assert (chosen["height"], chosen["width"], chosen["blocks"], chosen["backbone"]) == (128, 96, (1, 3), "none")
    assert start_classes(source, Detector) == ("warm", "cold")
    with pytest.raises(
        ConfigError, match="brings its own backbone and head, but was given architecture rf_detr in place"
    ):
        model_values(DetectionTask(), source, {"architecture": "rf_detr"})


def published(folder: Path, **saved: object) -> str:
    """A small RF-DETR of transformers with two classes."""
    torch.manual_seed(1)
    vit = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 28,
        "num_windows": 1,
        "out_indices": [2, 4],
    }
    settings = RfDetrConfig(
        backbone_config=vit,
        d_model=32,
        decoder_layers=3,
        num_queries=24,
        group_detr=13,
        id2label={0: "Warm", 1: "Cold"},
    )
    RfDetrForObjectDetection(settings).save_pretrained(folder, **saved)
    return f"transformers:{folder}"


def test_the_head_of_a_published_rf_detr_is_taken_onto_another_vit(tmp_path):
    start = read_start(published(tmp_path), Detector)
    assert start.values == {"architecture": "rf_detr", "channels": 32, "blocks": (1, 3)}
    assert start.classes == ("warm", "cold") and start.network is None
    vit = tiny_vit()
    assert vit.embed_dim == 64
    begun = begin(Detector, config(**start.values), start, vit, 0)
    own = begun.head.state_dict()
    left = [key for key in own if not torch.equal(own[key], start.head.get(key, own[key] + 1))]
    assert left and all(".norms." in key for key in left)
    assert begun.detect([scene(0).picture_HW])


def test_a_head_of_another_width_is_named(tmp_path):
    start = read_start(published(tmp_path), Detector)
    with pytest.raises(
        ConfigError, match=r"--start transformers:.*of its head fits rf_detr with --channels 64; e\.g\. "
    ):
        begin(Detector, config(architecture="rf_detr", channels=64), start, tiny_vit(), 0)


def test_pickled_and_missing_weights_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no RF-DETR of transformers can be loaded"):
        read_start(f"transformers:{tmp_path / 'nothing'}", Detector)
    name = published(tmp_path)
    state = RfDetrForObjectDetection.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no RF-DETR of transformers can be loaded"):
        read_start(name, Detector)
