"""What goes into a SceneMiner, what its heads read, and what comes out.

Legend: N scenes, M pictures of all scenes, E embedding width, K tags or modes, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from system.errors import DataError
from system.miner.bev import BevTokens


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """Scenes as the model takes them, their pictures in one row.

    Attributes:
        images_MHWC: uint8, at the tower's input size.
        scene_M: int64, the scene of each picture, never falling; a scene may have none.
        time_s_M: float32, from the start of the window.
        intrinsics_M33: float32, in pixels of the tower's input. ego_from_camera_M44: float32, rigid.
        is_calibrated_M: bool; where False both are ignored and the stated pinhole of `system.miner.bev` is taken.
        ego_N3: float32, speed (m/s), yaw rate (rad/s) and acceleration (m/s^2) at the window's end; NaN where unknown.
    """

    images_MHWC: Tensor
    scene_M: Tensor
    time_s_M: Tensor
    intrinsics_M33: Tensor
    ego_from_camera_M44: Tensor
    is_calibrated_M: Tensor
    ego_N3: Tensor
    num_scenes: int


@dataclass(frozen=True, eq=False)
class SceneFeatures:
    """All that the heads' answers depend on besides their weights; training keeps it instead of pictures.

    Attributes:
        mean_embedding_NE: g, mean of the tower's embeddings of the scene's pictures; NaN without pictures.
        zero_shot_logits_NK: tag logits of the tower alone; NaN without pictures.
        tokens: the 32 bird's-eye tokens. top_cell_NC: the largest values over them, as `system.miner.summary` tells.
        ego_N3: as in the batch.
    """

    mean_embedding_NE: Tensor
    zero_shot_logits_NK: Tensor
    tokens: BevTokens
    top_cell_NC: Tensor
    ego_N3: Tensor

    def __len__(self) -> int:
        return len(self.ego_N3)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)} | vars(self.tokens)

    def map(self, function: Callable[[Tensor], Tensor]) -> SceneFeatures:
        """The same with every tensor replaced, for instance by its rows of some scenes."""
        return SceneFeatures.of({name: function(tensor) for name, tensor in self.tensors().items()})

    def rows(self, scenes: slice | Tensor) -> SceneFeatures:
        """Some of the scenes."""
        return self.map(lambda tensor: tensor[scenes])

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> SceneFeatures:
        """The inverse of `tensors`."""
        cells = {field.name: tensors[field.name] for field in fields(BevTokens)}
        others = {name: tensor for name, tensor in tensors.items() if name not in cells}
        return cls(tokens=BevTokens(**cells), **others)


@dataclass(frozen=True, eq=False)
class SceneOutputs:
    """What the model says of each scene, float32.

    Attributes:
        embedding_NE: of length 1; NaN without pictures.
        tag_probabilities_NK: in the taxonomy's order; NaN without pictures.
        own_probabilities_NL: of the tags of users' own heads, in the order of `SceneMiner.own_tags`; likewise.
        risk_N: in [0, 1); NaN without pictures or without a trained risk head.
        forecast_NMT2: m, ego frame at the window's end. forecast_probability_NM: sums to 1. NaN without ego motion.
        ambiguity_N: spread of the forecast's ends (m); NaN without ego motion.
    """

    embedding_NE: Tensor
    tag_probabilities_NK: Tensor
    own_probabilities_NL: Tensor
    risk_N: Tensor
    forecast_NMT2: Tensor
    forecast_probability_NM: Tensor
    ambiguity_N: Tensor

    def cpu(self) -> SceneOutputs:
        """The same in main memory."""
        return SceneOutputs(**{name: tensor.cpu() for name, tensor in vars(self).items()})


def check_batch(batch: SceneBatch, input_size: tuple[int, int]) -> None:
    """Refuse a batch whose parts do not fit together.

    Raises:
        DataError: `wrong_shape`, `wrong_scene_index` or `impossible_calibration`, with expected and actual.
    """
    count, scenes = len(batch.images_MHWC), batch.num_scenes
    expected = {
        "images_MHWC": (batch.images_MHWC, (count, *input_size, 3)),
        "scene_M": (batch.scene_M, (count,)),
        "time_s_M": (batch.time_s_M, (count,)),
        "intrinsics_M33": (batch.intrinsics_M33, (count, 3, 3)),
        "ego_from_camera_M44": (batch.ego_from_camera_M44, (count, 4, 4)),
        "is_calibrated_M": (batch.is_calibrated_M, (count,)),
        "ego_N3": (batch.ego_N3, (scenes, 3)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise DataError(
                "wrong_shape", f"batch of {scenes} scenes: {name} has shape {tuple(tensor.shape)}, expected {shape}"
            )
    if batch.images_MHWC.dtype != torch.uint8:
        raise DataError("wrong_shape", f"images_MHWC has type {batch.images_MHWC.dtype}, expected torch.uint8")
    scene = batch.scene_M
    if scenes < 1 or (count and (scene.min() < 0 or scene.max() >= scenes or (scene.diff() < 0).any())):
        raise DataError(
            "wrong_scene_index", f"scene_M {scene.tolist()[:8]}...: expected rising numbers in 0..{scenes - 1}"
        )
    focal = torch.minimum(batch.intrinsics_M33[:, 0, 0], batch.intrinsics_M33[:, 1, 1])
    finite = batch.intrinsics_M33.isfinite().all((1, 2)) & batch.ego_from_camera_M44.isfinite().all((1, 2))
    bad = batch.is_calibrated_M & ~(finite & (focal > 0))
    if bad.any():
        raise DataError(
            "impossible_calibration",
            f"pictures {bad.nonzero().flatten().tolist()[:8]}: expected finite matrices and focal lengths over 0",
        )
