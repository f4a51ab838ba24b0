"""From pictures to what a frozen tower knows of a scene: everything before the first weight of ours.

It depends on the tower alone, so that training computes it once, whatever it trains afterwards.
Legend: N scenes, M pictures of all scenes, P patches, C channels of a patch, E embedding width, K = 32 cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from system.miner.bev import BevTokens, cell_index, complete_rig, ground_points, patch_centres, pool_cells
from system.miner.scene_batch import SceneBatch, check_batch


class TowerAnswer(Protocol):
    """What a tower returns: pooled_NE of length 1 and patches_NPC, float32."""

    @property
    def pooled_NE(self) -> Tensor: ...

    @property
    def patches_NPC(self) -> Tensor: ...


class ImageTower(Protocol):
    """What the lift needs of a tower."""

    @property
    def embedding_dim(self) -> int: ...

    @property
    def patch_dim(self) -> int: ...

    @property
    def input_size(self) -> tuple[int, int]: ...

    @property
    def patch_grid(self) -> tuple[int, int]: ...

    def encode_images(self, images_NHWC: Tensor) -> TowerAnswer: ...


@dataclass(frozen=True, eq=False)
class LiftedScenes:
    """What the tower knows of N scenes.

    Attributes:
        pooled_ME: embeddings of length 1 of all pictures, those of scene 0 first.
        counts_N: int64, pictures of each scene; their sum is M.
        mean_patch_NC: mean of all patch tokens of a scene; zero without pictures.
        tokens: the 32 bird's-eye tokens.
        ego_N3: as in the batch.
    """

    pooled_ME: Tensor
    counts_N: Tensor
    mean_patch_NC: Tensor
    tokens: BevTokens
    ego_N3: Tensor

    def to(self, device: torch.device) -> LiftedScenes:
        """The same in another memory."""
        tokens = BevTokens(**{name: tensor.to(device) for name, tensor in vars(self.tokens).items()})
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return LiftedScenes(tokens=tokens, **moved)

    def __len__(self) -> int:
        return len(self.counts_N)


def lift_scenes(tower: ImageTower, batch: SceneBatch, device: torch.device) -> LiftedScenes:
    """The tower, once for each picture, and the bird's-eye lift.

    Raises:
        DataError: the batch does not fit together, or does not fit the tower.
    """
    check_batch(batch, tower.input_size)
    scene = batch.scene_M.to(device)
    with torch.no_grad():
        pooled, patches = _tower_answer(tower, batch.images_MHWC, device)
        intrinsics, poses = complete_rig(
            batch.intrinsics_M33.to(device),
            batch.ego_from_camera_M44.to(device),
            batch.is_calibrated_M.to(device),
            tower.input_size,
        )
        centres = patch_centres(tower.patch_grid, tower.input_size).to(device)
        _, range_m, azimuth_rad = ground_points(centres, intrinsics, poses)
        cells = cell_index(range_m, azimuth_rad)
        counts = torch.bincount(batch.scene_M, minlength=batch.num_scenes)
        by_scene = patches.mean(1).split(counts.tolist())
        return LiftedScenes(
            pooled_ME=pooled,
            counts_N=counts,
            mean_patch_NC=torch.stack([part.mean(0) for part in by_scene]).nan_to_num(0.0),
            tokens=pool_cells(patches, cells, scene, batch.time_s_M.to(device), batch.num_scenes),
            ego_N3=batch.ego_N3.to(device),
        )


def _tower_answer(tower: ImageTower, images_MHWC: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    if not len(images_MHWC):
        patches = tower.patch_grid[0] * tower.patch_grid[1]
        return torch.zeros(0, tower.embedding_dim, device=device), torch.zeros(
            0, patches, tower.patch_dim, device=device
        )
    answer = tower.encode_images(images_MHWC)
    return answer.pooled_NE, answer.patches_NPC
