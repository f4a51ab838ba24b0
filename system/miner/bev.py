"""Bird's-eye lift without parameters: patch tokens of any number of pictures become 32 visual tokens a scene.

A patch's centre ray meets the ground plane of the ego frame in a point; its token counts for the cell of 8 azimuth
sectors x 4 range rings that holds the point. Patches above the horizon keep their azimuth in the outermost ring.

Legend: N scenes, M pictures of all scenes, P patches of a picture, C channels of a patch, K = 32 cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_SECTORS = 8  # sector 0 looks ahead, sector 2 to the left; each is centred on a multiple of 45 degrees
RING_EDGES_M = (10.0, 25.0, 50.0)  # the last ring is open
NUM_RINGS = len(RING_EDGES_M) + 1
NUM_CELLS = NUM_SECTORS * NUM_RINGS

# The stated camera of pictures without calibration: level, looking ahead, above the origin of the ego frame.
ASSUMED_FIELD_OF_VIEW_DEG = 70.0  # horizontal, between a phone (65) and a dashcam (about 75 after undistortion)
ASSUMED_ASPECT = 16.0 / 9.0  # of the picture before it was squashed to the tower's input
ASSUMED_HEIGHT_M = 1.5
# Lower than this over the ego's origin no camera sees the road: the frame's origin is then not on the ground (KITTI's
# is a camera), and the ground is taken to lie ASSUMED_HEIGHT_M under the camera.
_LEAST_HEIGHT_M = 0.5

# Camera axes (x right, y down, z forward) in ego axes (x forward, y left, z up).
_EGO_FROM_LEVEL_CAMERA = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


@dataclass(frozen=True, eq=False)
class BevTokens:
    """What the cells of N scenes hold; zero where nothing was seen.

    Attributes:
        mean_NKC: mean of the cell's patch tokens over all cameras and moments.
        trend_NKC: how that mean changes with time, by least squares (1/s); zero for a single moment.
        time_s_NK: mean time of the cell's patches.
        is_seen_NK: bool.
    """

    mean_NKC: Tensor
    trend_NKC: Tensor
    time_s_NK: Tensor
    is_seen_NK: Tensor


def assumed_intrinsics(input_size: tuple[int, int]) -> Tensor:
    """Camera matrix [3, 3] of the stated pinhole, in pixels of a tower input of (height, width)."""
    height, width = input_size
    tangent = math.tan(math.radians(ASSUMED_FIELD_OF_VIEW_DEG) / 2)
    fx, fy = width / (2 * tangent), height * ASSUMED_ASPECT / (2 * tangent)
    return torch.tensor([[fx, 0.0, (width - 1) / 2], [0.0, fy, (height - 1) / 2], [0.0, 0.0, 1.0]])


def assumed_pose() -> Tensor:
    """ego_from_camera [4, 4] of the stated pinhole."""
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor(_EGO_FROM_LEVEL_CAMERA)
    pose[2, 3] = ASSUMED_HEIGHT_M
    return pose


def complete_rig(
    intrinsics_M33: Tensor, ego_from_camera_M44: Tensor, is_calibrated_M: Tensor, input_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Put the stated pinhole in the place of what is not calibrated; the values there are ignored, NaN included."""
    known = is_calibrated_M[:, None, None]
    intrinsics = torch.where(known, intrinsics_M33, assumed_intrinsics(input_size).to(intrinsics_M33))
    return intrinsics, torch.where(known, ego_from_camera_M44, assumed_pose().to(ego_from_camera_M44))


def patch_centres(patch_grid: tuple[int, int], input_size: tuple[int, int]) -> Tensor:
    """Centres [P, 2] (u right, v down) of the patches in pixels, row-major; pixel centres are whole numbers."""
    (rows, cols), (height, width) = patch_grid, input_size
    v = (torch.arange(rows) + 0.5) * height / rows - 0.5
    u = (torch.arange(cols) + 0.5) * width / cols - 0.5
    return torch.stack([u.repeat(rows), v.repeat_interleave(cols)], -1)


def ground_points(
    pixels_P2: Tensor, intrinsics_M33: Tensor, ego_from_camera_M44: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the rays of pixels meet the ground, in the ego frame.

    Returns:
        xy_MP2: the point on the ground (m); above the horizon a direction of length 1.
        range_MP: its distance from the ego's origin (m), inf above the horizon.
        azimuth_MP: counter-clockwise from straight ahead (rad).
    """
    fx, skew, cx = intrinsics_M33[:, 0, 0, None], intrinsics_M33[:, 0, 1, None], intrinsics_M33[:, 0, 2, None]
    fy, cy = intrinsics_M33[:, 1, 1, None], intrinsics_M33[:, 1, 2, None]
    y = (pixels_P2[None, :, 1] - cy) / fy
    x = (pixels_P2[None, :, 0] - cx - skew * y) / fx
    rays_camera = torch.stack([x, y, torch.ones_like(x)], -1)
    rays = rays_camera @ ego_from_camera_M44[:, :3, :3].transpose(1, 2)
    origin_xy, height = ego_from_camera_M44[:, None, :2, 3], ego_from_camera_M44[:, None, 2, 3]
    height = torch.where(height >= _LEAST_HEIGHT_M, height, ASSUMED_HEIGHT_M)
    meets = rays[..., 2] < -1e-6
    scale = height / torch.where(meets, -rays[..., 2], 1.0)
    direction = rays[..., :2] / rays[..., :2].norm(dim=-1, keepdim=True).clamp_min(1e-9)
    xy = torch.where(meets[..., None], origin_xy + scale[..., None] * rays[..., :2], direction)
    return xy, torch.where(meets, xy.norm(dim=-1), torch.inf), torch.atan2(xy[..., 1], xy[..., 0])


def cell_index(range_m: Tensor, azimuth_rad: Tensor) -> Tensor:
    """Cell of a point, sector * 4 + ring, int64 of the same shape."""
    sector = torch.floor(azimuth_rad * NUM_SECTORS / (2 * math.pi) + 0.5).long() % NUM_SECTORS
    edges = torch.tensor(RING_EDGES_M, device=range_m.device, dtype=range_m.dtype)
    return sector * NUM_RINGS + torch.bucketize(range_m.contiguous(), edges, right=True)


def pool_cells(patches_MPC: Tensor, cell_MP: Tensor, scene_M: Tensor, time_s_M: Tensor, num_scenes: int) -> BevTokens:
    """Pool patch tokens into the cells of their scenes, all pictures at once."""
    _, num_patches, channels = patches_MPC.shape
    flat = (scene_M[:, None] * NUM_CELLS + cell_MP).reshape(-1)
    time_s = time_s_M[:, None].expand(-1, num_patches).reshape(-1, 1)
    tokens = patches_MPC.reshape(-1, channels)
    shape = (num_scenes, NUM_CELLS)

    def total(values: Tensor) -> Tensor:
        sums = values.new_zeros(num_scenes * NUM_CELLS, values.shape[-1])
        if values.is_cuda:
            # index_add_ adds in any order on a GPU; this sorts first, so that the same scene gives the same bits.
            return sums.index_put_((flat,), values, accumulate=True).view(*shape, -1)
        return sums.index_add_(0, flat, values).view(*shape, -1)

    count = total(torch.ones_like(time_s))
    divisor = count.clamp_min(1.0)
    mean_time = total(time_s) / divisor
    mean = total(tokens) / divisor
    centred_time = time_s - mean_time.view(-1, 1)[flat]
    variance = total(centred_time**2)
    trend = torch.where(variance > 1e-6, total(centred_time * tokens) / variance.clamp_min(1e-6), 0.0)
    return BevTokens(mean, trend, mean_time[..., 0], count[..., 0] > 0)
