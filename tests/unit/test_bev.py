"""Claims about the bird's-eye lift."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from system.miner.bev import (
    NUM_CELLS,
    NUM_RINGS,
    assumed_intrinsics,
    assumed_pose,
    cell_index,
    complete_rig,
    ground_points,
    patch_centres,
    pool_cells,
)

SIZE, GRID = (224, 224), (7, 7)
ANGLES = st.floats(-math.pi, math.pi)


def yawed(angle: float) -> torch.Tensor:
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn


def pitched_rig(yaw: float, pitch: float, x: float, y: float, height: float) -> torch.Tensor:
    """ego_from_camera of a camera that looks `pitch` down, turned by `yaw`."""
    pose = assumed_pose().double()
    down = torch.eye(4, dtype=torch.float64)
    down[1:3, 1:3] = torch.tensor([[math.cos(pitch), math.sin(pitch)], [-math.sin(pitch), math.cos(pitch)]])
    pose[:3, 3] = 0
    pose = yawed(yaw) @ pose @ down
    pose[:3, 3] = torch.tensor([x, y, height])
    return pose


@settings(deadline=None)
@given(
    yaw=ANGLES,
    pitch=st.floats(-0.3, 0.6),
    x=st.floats(-2, 2),
    y=st.floats(-1, 1),
    height=st.floats(0.6, 3),
    u=st.floats(0, 223),
    v=st.floats(0, 223),
)
def test_a_ground_point_projects_back_to_its_pixel(yaw, pitch, x, y, height, u, v):
    pose, intrinsics = pitched_rig(yaw, pitch, x, y, height), assumed_intrinsics(SIZE).double()
    pixel = torch.tensor([[u, v]], dtype=torch.float64)
    xy, range_m, azimuth = ground_points(pixel, intrinsics[None], pose[None])
    if not range_m.isfinite() or range_m > 1e4:
        return
    seen = torch.linalg.inv(pose) @ torch.tensor([*xy[0, 0], 0.0, 1.0], dtype=torch.float64)
    assert seen[2] > 0
    torch.testing.assert_close((intrinsics @ (seen[:3] / seen[2]))[:2], pixel[0], rtol=1e-6, atol=1e-4)
    assert math.isclose(math.hypot(*xy[0, 0]), range_m, rel_tol=1e-9)
    assert math.isclose(math.atan2(xy[0, 0, 1], xy[0, 0, 0]), azimuth, abs_tol=1e-9)


@settings(deadline=None)
@given(yaw=ANGLES, pitch=st.floats(-0.3, 0.6), height=st.floats(0.6, 3))
def test_turning_the_rig_by_45_degrees_moves_every_patch_one_sector_on(yaw, pitch, height):
    pose, centres = pitched_rig(yaw, pitch, 1.0, 0.0, height), patch_centres(GRID, SIZE).double()
    intrinsics = assumed_intrinsics(SIZE).double()[None]

    def cells(rig: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, range_m, azimuth = ground_points(centres, intrinsics, rig[None])
        on_edge = ((azimuth / (math.pi / 4) + 0.5) % 1.0 - 0.5).abs() > 0.5 - 1e-6
        for edge_m in (10.0, 25.0, 50.0):
            on_edge |= (range_m - edge_m).abs() < 1e-6
        return cell_index(range_m, azimuth), on_edge

    (before, on_edge), (after, _) = cells(pose), cells(yawed(math.pi / 4) @ pose)
    assert torch.equal(((before + NUM_RINGS) % NUM_CELLS)[~on_edge], after[~on_edge])


def test_sectors_are_centred_on_ahead_and_rings_end_where_they_say():
    azimuth = torch.tensor([0.0, 22.4, 22.6, 90.0, 180.0, -180.0, -90.0, -22.4]).deg2rad()
    assert (cell_index(torch.zeros(8), azimuth) // NUM_RINGS).tolist() == [0, 0, 1, 2, 4, 4, 6, 0]
    ranges = torch.tensor([0.0, 9.99, 10.0, 24.9, 25.0, 49.9, 50.0, torch.inf])
    assert (cell_index(ranges, torch.zeros(8)) % NUM_RINGS).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_patches_above_the_horizon_keep_their_azimuth_in_the_outermost_ring():
    level = pitched_rig(math.pi / 2, 0.0, 0.0, 0.0, 1.5)
    centres = patch_centres(GRID, SIZE).double()
    _, range_m, azimuth = ground_points(centres, assumed_intrinsics(SIZE).double()[None], level[None])
    sky = centres[:, 1] < SIZE[0] / 2 - 1
    assert range_m[0, sky].isinf().all() and range_m[0, ~sky & (centres[:, 1] > SIZE[0] / 2)].isfinite().all()
    middle = sky & ((centres[:, 0] - (SIZE[1] - 1) / 2).abs() < 1e-6)
    assert (cell_index(range_m, azimuth)[0, middle] == 2 * NUM_RINGS + 3).all()


def test_pictures_without_calibration_get_the_stated_pinhole_whatever_their_numbers():
    nothing = torch.full((2, 4, 4), torch.nan)
    known = torch.tensor([False, True])
    given_rig = torch.stack([nothing[0], pitched_rig(1.0, 0.1, 0, 0, 2.0).float()])
    intrinsics, poses = complete_rig(torch.full((2, 3, 3), torch.nan), given_rig, known, SIZE)
    assert torch.equal(intrinsics[0], assumed_intrinsics(SIZE)) and torch.equal(poses[0], assumed_pose())
    assert torch.equal(poses[1], given_rig[1])
    edge = torch.tensor([[-0.5, 111.5], [223.5, 111.5]])
    _, _, azimuth = ground_points(edge, intrinsics[:1], poses[:1])
    torch.testing.assert_close(azimuth.rad2deg(), torch.tensor([[35.0, -35.0]]))


def test_a_camera_at_the_origin_of_its_frame_still_sees_the_road_below_it():
    pose = assumed_pose()
    pose[2, 3] = 0.0
    pixels = patch_centres(GRID, SIZE)
    at_origin = ground_points(pixels, assumed_intrinsics(SIZE)[None], pose[None])[1]
    torch.testing.assert_close(
        at_origin, ground_points(pixels, assumed_intrinsics(SIZE)[None], assumed_pose()[None])[1]
    )


def test_pooling_is_the_mean_and_the_slope_that_a_plain_loop_finds():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(6, 10, 5, generator=generator, dtype=torch.float64)
    cells = torch.randint(0, NUM_CELLS, (6, 10), generator=generator)
    scene, time_s = torch.tensor([0, 0, 0, 2, 2, 2]), torch.tensor([0.0, 1.0, 2.0, 0.5, 0.5, 3.0], dtype=torch.float64)
    pooled = pool_cells(patches, cells, scene, time_s, 3)
    for n in range(3):
        for k in range(NUM_CELLS):
            rows = [(m, p) for m in range(6) for p in range(10) if scene[m] == n and cells[m, p] == k]
            assert bool(pooled.is_seen_NK[n, k]) == bool(rows)
            if not rows:
                assert not pooled.mean_NKC[n, k].any() and not pooled.trend_NKC[n, k].any()
                continue
            values, times = np.stack([patches[r] for r in rows]), np.array([time_s[m] for m, _ in rows])
            np.testing.assert_allclose(pooled.mean_NKC[n, k], values.mean(0), atol=1e-12)
            np.testing.assert_allclose(pooled.time_s_NK[n, k], times.mean(), atol=1e-12)
            slope = np.polyfit(times, values, 1)[0] if np.ptp(times) > 0 else np.zeros(5)
            np.testing.assert_allclose(pooled.trend_NKC[n, k], slope, atol=1e-9)


def test_real_boxes_are_lifted_to_where_they_stand(data_root: Path):
    """nuScenes: the pixel under a box's ground contact leads back to the box, in every camera."""
    root = data_root / "nuscenes" / "v1.0-mini"
    tables = {name: json.loads((root / f"{name}.json").read_text()) for name in ("sample_data", "sample_annotation")}
    poses = {row["token"]: row for row in json.loads((root / "ego_pose.json").read_text())}
    rigs = {row["token"]: row for row in json.loads((root / "calibrated_sensor.json").read_text())}
    boxes_of: dict[str, list[dict]] = {}
    for box in tables["sample_annotation"]:
        boxes_of.setdefault(box["sample_token"], []).append(box)
    same_sector, same_ring, exact = [], [], []
    for picture in tables["sample_data"]:
        rig = rigs[picture["calibrated_sensor_token"]]
        if not picture["filename"].endswith(".jpg") or not rig["camera_intrinsic"]:
            continue
        pose, intrinsics = rigid(rig), torch.tensor(rig["camera_intrinsic"], dtype=torch.float64)
        ego_from_world = torch.linalg.inv(rigid(poses[picture["ego_pose_token"]]))
        for box in boxes_of.get(picture["sample_token"], []):
            bottom = torch.tensor([*box["translation"], 1.0], dtype=torch.float64)
            bottom[2] -= box["size"][2] / 2
            contact = ego_from_world @ bottom
            for target, found in ((contact, None), (contact * torch.tensor([1.0, 1, 0, 1]), exact)):
                seen = torch.linalg.inv(pose) @ target
                if seen[2] < 1.0 or math.hypot(*contact[:2]) > 40:
                    continue
                pixel = (intrinsics @ (seen[:3] / seen[2]))[:2]
                if not (0 <= pixel[0] < 1600 and 0 <= pixel[1] < 900):
                    continue
                xy, range_m, azimuth = ground_points(pixel[None], intrinsics[None], pose[None])
                if found is not None:
                    found.append(float((xy[0, 0] - target[:2]).norm()))
                    continue
                cell = cell_index(range_m, azimuth)[0, 0]
                true_range, true_azimuth = contact[:2].norm(), torch.atan2(contact[1], contact[0])
                true_cell = cell_index(true_range, true_azimuth)
                same_sector.append(bool(cell // NUM_RINGS == true_cell // NUM_RINGS))
                if abs(contact[2]) < 0.1:
                    same_ring.append(bool(cell % NUM_RINGS == true_cell % NUM_RINGS))
    assert len(exact) > 500
    # On the plane itself the way back is exact. Where the road leaves the plane z = 0 of the ego frame, the sector
    # still holds, while half a metre of height moves a far point by a ring: rings are judged where it is the plane.
    assert max(exact) < 1e-6
    assert len(same_sector) > 500 and np.mean(same_sector) > 0.99
    assert len(same_ring) > 50 and np.mean(same_ring) > 0.9


def rigid(row: dict) -> torch.Tensor:
    w, x, y, z = row["rotation"]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix[:3, 3] = torch.tensor(row["translation"])
    return matrix


@pytest.mark.parametrize("grid", [(7, 7), (16, 16), (3, 5)])
def test_patch_centres_are_row_major_and_symmetric(grid):
    centres = patch_centres(grid, SIZE)
    assert centres.shape == (grid[0] * grid[1], 2)
    torch.testing.assert_close(centres.mean(0), torch.tensor([(224 - 1) / 2] * 2))
    assert centres[1, 0] > centres[0, 0] and centres[1, 1] == centres[0, 1]
