"""Claims about zero-shot tags and about the tags that tracks decide."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from system.backbones.packaged_info import TOWER_ID
from system.logs.plain import PlainReader
from system.logs.windows import WindowConfig, cut_window, list_windows
from system.miner.motion_tags import MotionTagConfig, motion_tags
from system.miner.sightings import kind_of
from system.miner.tags import embed_taxonomy, zero_shot_logits
from system.miner.taxonomy import DEFAULT_PATH, Calibration, Taxonomy, load_taxonomy
from system.records import EgoTrack, LogRef, SceneWindow, Track, WindowRef
from tests.fake_tower import FakeTower

HZ, SECONDS = 10, 4.0
T_S = np.arange(round(SECONDS * HZ)) / HZ
CAR = (4.6, 1.9, 1.5)


def test_a_tag_is_the_contrast_of_its_prompts_against_their_opposites():
    tower, taxonomy = FakeTower(), load_taxonomy()
    pooled = F.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    logits = zero_shot_logits(pooled, [5, 1], embed_taxonomy(tower, taxonomy, 100.0))
    for k, tag in enumerate(taxonomy.tags):
        for_it, against = (
            F.normalize(tower.encode_texts([f"a photo of {words}" for words in side]).mean(0), dim=-1)
            for side in (tag.prompts, tag.opposites)
        )
        contrast = pooled @ (for_it - against)
        # Of five pictures, two are the quarter that shows it best.
        scene = contrast[:5].sort().values[-2:].mean() if tag.seen_in == "some" else contrast[:5].mean()
        torch.testing.assert_close(logits[:, k], 100 * torch.stack([scene, contrast[5]]), rtol=1e-4, atol=1e-4)


def test_a_calibration_counts_for_its_tower_alone():
    taxonomy = load_taxonomy()
    line = {"fake": Calibration(midpoint=0.1, scale=7.0), "other": Calibration(midpoint=-1, scale=3.0)}
    tags = (taxonomy.tags[0].model_copy(update={"calibration": line}), *taxonomy.tags[1:])
    plain = Taxonomy(tags=tuple(tag.model_copy(update={"calibration": {}}) for tag in tags))
    pooled = F.normalize(torch.ones(1, 16), dim=-1)
    with_line = zero_shot_logits(pooled, [1], embed_taxonomy(FakeTower(), Taxonomy(tags=tags), 100.0))[0]
    without = zero_shot_logits(pooled, [1], embed_taxonomy(FakeTower(), plain, 100.0))[0]
    torch.testing.assert_close(with_line[0], 7 * (without[0] / 100 - 0.1))
    assert torch.equal(with_line[1:], without[1:])


def test_the_calibration_was_measured_on_the_packaged_tower_that_is_there():
    measured_on = re.search(r"packaged tower ([0-9a-f]+)", DEFAULT_PATH.read_text("utf-8"))
    assert measured_on and measured_on[1] == TOWER_ID, "run tests/benchmarks/tag_calibration.py and paste its lines"
    assert all("packaged" in tag.calibration for tag in load_taxonomy().tags)


def test_a_scene_without_pictures_has_no_tags():
    logits = zero_shot_logits(torch.zeros(0, 16), [0], embed_taxonomy(FakeTower(), load_taxonomy(), 100.0))
    assert logits.shape == (1, 20) and logits.isnan().all()


def ego_track(speed_mps: np.ndarray | float = 10.0, yaw_rad: np.ndarray | float = 0.0) -> EgoTrack:
    speed, yaw = np.broadcast_to(speed_mps, T_S.shape), np.broadcast_to(yaw_rad, T_S.shape)
    step = np.diff(T_S, prepend=0.0)
    x, y = np.cumsum(speed * np.cos(yaw) * step), np.cumsum(speed * np.sin(yaw) * step)
    return EgoTrack((T_S * 1e9).astype(np.int64), np.stack([x, y, 0 * x, yaw, speed], -1), CAR, 0.0)


def user(ahead_m, left_m, category: str = "car", size=CAR, ego: EgoTrack | None = None) -> Track:
    """A road user at these places before the ego (constants or one for each moment), in the world frame."""
    ego = ego or ego_track()
    x = ego.states[:, 0] + ahead_m
    y = ego.states[:, 1] + np.broadcast_to(left_m, T_S.shape)
    velocity = np.gradient(x, T_S), np.gradient(y, T_S)
    columns = (x, y, 0 * x, 0 * x, *(0 * x + s for s in size), *velocity)
    return Track(f"{category}-{ahead_m}", category, ego.t_ns, np.stack(columns, -1))


def scene(ego: EgoTrack | None, agents: tuple[Track, ...] | None) -> SceneWindow:
    log = LogRef("test", "", "log", "test", 0, 10**10)
    return SceneWindow(WindowRef("id", log, 0, 4 * 10**9), (), ego, agents)


def present(ego: EgoTrack, *agents: Track) -> set[str]:
    return {name for name, value in motion_tags(scene(ego, agents)).items() if value}


def test_without_tracks_nothing_is_claimed():
    assert motion_tags(scene(None, None)) == {} and motion_tags(scene(None, (user(10, 0),))) == {}
    assert motion_tags(scene(ego_track(), None)) == {"turning": 0.0, "hard_braking": 0.0}
    broken = ego_track()
    broken.states[3, 0] = np.nan
    assert motion_tags(scene(broken, ())) == {}


def test_an_empty_road_is_a_fact_too():
    tags = motion_tags(scene(ego_track(), ()))
    assert not any(tags.values()) and {"pedestrian", "close_lead", "cut_in", "dense_traffic"} <= tags.keys()
    assert "construction" not in tags


def test_turning_is_a_change_of_heading_and_not_its_wrap():
    assert present(ego_track(yaw_rad=np.linspace(0, 1.2, len(T_S)))) == {"turning"}
    wrapping = np.linspace(3.1, 3.2, len(T_S))
    assert not present(ego_track(yaw_rad=np.where(wrapping > np.pi, wrapping - 2 * np.pi, wrapping)))
    assert not present(ego_track(speed_mps=0.0, yaw_rad=np.linspace(0, 1.2, len(T_S))))


def test_hard_braking_is_deceleration_that_lasts():
    assert "hard_braking" in present(ego_track(speed_mps=np.maximum(15 - 5 * T_S, 0)))
    assert not present(ego_track(speed_mps=15 - 2 * T_S))
    assert not present(ego_track(speed_mps=10 + 0.4 * (np.arange(len(T_S)) % 2)))


def test_a_close_leader_is_under_a_second_ahead_in_the_lane_and_goes_our_way():
    assert present(ego_track(), user(4.6 + 8, 0)) == {"close_lead"}
    assert not present(ego_track(), user(4.6 + 12, 0))
    assert not present(ego_track(), user(4.6 + 8, 3.5))
    oncoming = user(30 - 20 * T_S, 0)
    oncoming.states[:, 3] = np.pi
    assert not present(ego_track(), oncoming)


def test_a_leader_in_a_bend_is_found_along_the_bend():
    yaw = 0.3 * T_S / SECONDS
    ego = ego_track(yaw_rad=yaw)
    curvature, gap = 0.3 / 40, 8.0
    ahead = 4.6 + gap
    place = np.array([ahead, 0.5 * curvature * ahead**2])
    turned = np.stack(
        [np.cos(yaw) * place[0] - np.sin(yaw) * place[1], np.sin(yaw) * place[0] + np.cos(yaw) * place[1]]
    )
    leader = user(turned[0], turned[1], ego=ego)
    leader.states[:, 3] = yaw
    assert "close_lead" in present(ego, leader)


def test_a_cut_in_is_the_others_move_into_the_lane():
    across = np.clip(3.5 - 2 * np.maximum(T_S - 1, 0), 0, 3.5)
    assert "cut_in" in present(ego_track(), user(15.0, across))
    assert "cut_in" not in present(ego_track(), user(60.0, across))
    assert "cut_in" not in present(ego_track(), user(15.0, 7 - 3.5 * T_S))  # goes right through
    ego_moves = replace(ego_track(), states=ego_track().states + np.stack([0 * T_S, 3.5 - across, *[0 * T_S] * 3], -1))
    beside = user(15.0, 3.5)
    assert "cut_in" not in present(ego_moves, beside)


def test_standing_behind_a_vehicle_is_traffic_and_standing_alone_is_not():
    still = ego_track(speed_mps=0.0)
    assert "stopped_in_traffic" in present(still, user(4.6 + 3, 0, ego=still))
    assert "stopped_in_traffic" not in present(still)
    assert "stopped_in_traffic" not in present(still, user(4.6 + 30, 0, ego=still))


def test_people_are_counted_at_one_moment_and_crossing_is_walking_across_the_lane():
    walkers = [user(20.0 + k, 6, "human.pedestrian.adult", (0.6, 0.6, 1.7)) for k in range(8)]
    assert present(ego_track(), *walkers) == {"pedestrian", "many_pedestrians"}
    assert present(ego_track(), *walkers[:7]) == {"pedestrian"}
    crossing = user(25.0 - 0 * T_S, 4 - 1.5 * T_S, "PEDESTRIAN", (0.6, 0.6, 1.7))
    assert present(ego_track(), crossing) == {"pedestrian", "pedestrian_crossing"}
    assert not present(ego_track(), user(80.0, 6, "pedestrian"))


def test_vehicles_that_never_move_leave_dense_traffic_open():
    still = ego_track(speed_mps=0.0)
    parked = tuple(user(-20 + 5 * k, 5, ego=still) for k in range(9))
    assert "dense_traffic" not in motion_tags(scene(still, parked))
    moving = tuple(user(-20 + 5.0 * k, 5) for k in range(9))
    assert motion_tags(scene(ego_track(), moving))["dense_traffic"] == 1.0
    assert motion_tags(scene(ego_track(), moving), MotionTagConfig(dense_vehicles=20))["dense_traffic"] == 0.0


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("vehicle.car", "vehicle"),
        ("REGULAR_VEHICLE", "vehicle"),
        ("Van", "vehicle"),
        ("vehicle.bus.bendy", "large"),
        ("Bus/RV/Caravan", "large"),
        ("VEHICULAR_TRAILER", "large"),
        ("human.pedestrian.construction_worker", "pedestrian"),
        ("Person", "pedestrian"),
        ("Cyclist", "rider"),
        ("vehicle.bicycle", "bicycle"),
        ("MOTORCYCLE", "motorcycle"),
        ("movable_object.trafficcone", "roadwork"),
        ("CONSTRUCTION_CONE", "roadwork"),
        ("BOLLARD", "other"),
        ("UNKNOWN", "other"),
    ],
)
def test_category_names_of_every_data_set_are_understood(category, kind):
    assert kind_of(category) == kind


@pytest.mark.parametrize(
    ("log", "somewhere", "never"),
    [
        ("nuscenes_mini/scene-0061", {"turning", "construction", "pedestrian", "large_vehicle"}, {"cut_in"}),
        ("nuscenes_mini/scene-0553", {"cyclist", "large_vehicle", "pedestrian_crossing"}, {"turning", "hard_braking"}),
        ("nuscenes_mini/scene-0655", {"pedestrian", "large_vehicle"}, {"dense_traffic", "cut_in", "turning"}),
        ("nuscenes_mini/scene-0757", {"large_vehicle", "cyclist"}, {"cut_in"}),
        ("nuscenes_mini/scene-0796", {"motorcycle", "large_vehicle"}, {"turning", "stopped_in_traffic"}),
        ("nuscenes_mini/scene-1100", {"pedestrian", "pedestrian_crossing", "motorcycle"}, {"close_lead"}),
        ("kitti_tracking/0003", {"cut_in"}, {"pedestrian", "hard_braking"}),
        ("ngsim_commonroad/USA_US101-22_2_T-1", {"hard_braking", "dense_traffic"}, {"pedestrian"}),
    ],
)
def test_real_tracks_say_what_the_makers_describe(data_root: Path, log: str, somewhere: set, never: set):
    reader, config = PlainReader(), WindowConfig()
    (found,) = (ref for ref in reader.list_logs(str(data_root / "driving" / log)) if isinstance(ref, LogRef))
    whole, tags = reader.read_log(found), set()
    for window in list_windows(found, config):
        tags |= {name for name, value in motion_tags(cut_window(whole, window, config)).items() if value}
    assert somewhere <= tags and not never & tags
