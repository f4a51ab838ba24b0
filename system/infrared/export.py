"""A detector as ONNX, checked against torch on real pictures.

Input `infrared`: uint8 [N, H, W], one channel, at the detector's size. Outputs: `boxes` float32 [N, A, 4], corners in
pixels of that size, and `scores` float32 [N, A, K]. Nothing is chosen: for fcos suppress what overlaps by class
(torchvision.ops.batched_nms at 0.6, or ONNX's NonMaxSuppression); a DETR needs none. The file's properties: classes and
mapping (how infrared of more than 8 bits becomes 8) as JSON, architecture.
Legend: N pictures, H x W pixels, A places or queries, K classes.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from system.errors import ModelError
from system.infrared.detector import Detector

_MAX_BATCH = 1024


class _Raw(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, infrared: Tensor) -> tuple[Tensor, Tensor]:
        features = self.detector.features(infrared[..., None].expand(-1, -1, -1, 3))
        return self.detector.head.raw(features, self.detector.size)


def export_onnx(detector: Detector, file: Path) -> None:
    """Write the model, for any number of pictures at once.

    Raises:
        ModelError: its architecture has no such form, or the file cannot be written.
    """
    if not hasattr(detector.head, "raw"):
        raise ModelError(
            f"{detector.config.architecture}: cannot be written as ONNX, because it chooses boxes within, as many as "
            "there are; train fcos or rf_detr for that"
        )
    model = _Raw(detector).eval()
    example = torch.zeros((2, *detector.size), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # Of the exporter's own dependencies.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=["infrared"],
            output_names=["boxes", "scores"],
            dynamic_shapes=({0: torch.export.Dim("pictures", min=1, max=_MAX_BATCH)},),
            verbose=False,
        )
    assert program is not None
    found = program.model_proto
    config = detector.config
    facts = {
        "classes": json.dumps(list(config.classes)),
        "architecture": config.architecture,
        "mapping": config.mapping.model_dump_json(),
    }
    onnx.helper.set_model_props(found, facts)
    try:
        onnx.save(found, str(file))
    except OSError as error:
        raise ModelError(f"{file}: cannot be written: {error.strerror or error}") from error


def largest_difference(detector: Detector, file: Path, pictures_NHW: NDArray[np.uint8]) -> dict[str, float]:
    """Between torch and the file on some pictures at the detector's size: of boxes in pixels, of scores.

    Raises:
        ModelError: onnxruntime is not installed, or cannot run the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError("checking an export needs onnxruntime: pip install onnxruntime") from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    told = {"boxes_px": 0.0, "scores": 0.0}
    with torch.no_grad():
        for picture_HW in pictures_NHW:
            theirs = session.run(None, {"infrared": picture_HW[None]})
            ours = _Raw(detector)(torch.from_numpy(picture_HW[None].copy()))
            for key, a, b in zip(told, ours, theirs, strict=True):
                # NaN stays NaN, which max() would drop.
                told[key] = float(np.maximum(told[key], np.abs(a.numpy() - np.asarray(b)).max()))
    return told
