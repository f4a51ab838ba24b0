"""The risk of a scene window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from system.errors import DataError
from system.miner.alignment import pair_up
from system.miner.kinematics import KinematicConfig
from system.miner.risk import RiskConfig, agent_risk
from system.miner.scene_risk import is_road_user, pair_hazards, score_scene
from system.records import EgoTrack, LogRef, SceneWindow, Track, WindowRef
from tests.benchmarks.risk_oracles import judge

RISK, KINEMATICS = RiskConfig(), KinematicConfig()
REF = WindowRef("0" * 32, LogRef("plain", "", "log", "test", 0, 4_000_000_000), 0, 4_000_000_001)


def ego(speed: float = 10.0, hz: float = 10.0, seconds: float = 4.0) -> EgoTrack:
    t_s = np.arange(0, seconds + 1e-9, 1 / hz)
    states = np.column_stack([speed * t_s, 0 * t_s, 0 * t_s, 0 * t_s, speed + 0 * t_s])
    return EgoTrack((t_s * 1e9).round().astype(np.int64), states, (4.5, 1.8, 1.5), 0.0)


def agent(x: float, y: float, vx: float, vy: float, hz: float = 10.0, name: str = "a", category: str = "car") -> Track:
    t_s = np.arange(0, 4 + 1e-9, 1 / hz)
    yaw = np.arctan2(vy, vx) if vx or vy else 0.0
    size = np.array([4.5, 1.8, 1.5])
    columns = [x + vx * t_s, y + vy * t_s, 0 * t_s, yaw + 0 * t_s, *np.tile(size[:, None], len(t_s))]
    states = np.column_stack([*columns, vx + 0 * t_s, vy + 0 * t_s])
    return Track(name, category, (t_s * 1e9).round().astype(np.int64), states)


def window(*agents: Track, at: EgoTrack | None = None) -> SceneWindow:
    return SceneWindow(REF, (), at or ego(), agents)


def test_nobody_there_is_no_risk_and_nobody_known_is_the_egos_own():
    assert score_scene(window(), RISK, KINEMATICS).risk == 0.0
    alone = score_scene(SceneWindow(REF, (), ego(), None), RISK, KINEMATICS)
    assert (alone.risk, alone.source) == (0.0, "ego")
    assert score_scene(SceneWindow(REF, (), None, None), RISK, KINEMATICS).risk is None


def test_hard_braking_alone_is_a_kinematic_risk_and_is_called_so():
    slow = ego()
    speed = np.maximum(10 - 8 * np.maximum(np.arange(41) / 10 - 1, 0), 0)
    slow = replace(slow, states=np.column_stack([slow.states[:, :4], speed]))
    score = score_scene(SceneWindow(REF, (), slow, None), RISK, KINEMATICS)
    assert score.source == "ego"
    assert score.risk > 0.3
    assert score.max_braking_mps2 == pytest.approx(8, rel=0.1)


def test_a_standing_car_in_the_way_is_named_with_its_time():
    score = score_scene(window(agent(30, 0, 0, 0, name="wall"), agent(30, 20, 0, 0)), RISK, KINEMATICS)
    assert score.source == "tracks"
    assert score.agents[0].track_id == "wall"
    assert score.min_ttc_s == 0.0  # it is driven into
    assert score.risk > 0.5
    assert len(score.agents) == 1


@given(gap=st.floats(2, 40), nearer=st.floats(0.1, 10), closing=st.floats(0, 12), faster=st.floats(0.1, 8))
@settings(max_examples=60, deadline=None)
def test_nearer_or_faster_closing_never_lowers_the_risk(gap: float, nearer: float, closing: float, faster: float):
    def risk(distance: float, speed: float) -> float:
        # One moment: the lead's front at `distance`, closing at `speed`.
        here, there = ego().between(0, 1), agent(distance + 4.5, 0, 10 - speed, 0).between(0, 1)
        both = SceneWindow(REF, (), replace(here), (there,))
        return score_scene(both, RISK, KINEMATICS).risk

    base = risk(gap, closing)
    assert risk(max(gap - nearer, 0.0), closing) >= base - 1e-9
    assert risk(gap, closing + faster) >= base - 1e-9


def test_all_pairs_at_once_give_what_one_agent_after_the_other_gives():
    rng = np.random.default_rng(0)
    agents = tuple(agent(*rng.uniform(-30, 60, 2), *rng.uniform(-10, 10, 2), name=str(k)) for k in range(30))
    pairs = pair_up(ego(), agents)
    together = np.bincount(pairs.agent, weights=pair_hazards(pairs, RISK)[0], minlength=30)
    for k in range(30):
        mine = pairs.agent == k
        parts = pairs.ego[mine], pairs.ego_velocity[mine], pairs.other[mine], pairs.other_velocity[mine]
        assert together[k] == pytest.approx(agent_risk(*parts, pairs.dt_s[mine], RISK).hazard, abs=1e-6)


@pytest.mark.parametrize("hz", [2.0, 5.0, 25.0])
def test_how_often_an_agent_was_seen_hardly_matters(hz: float):
    often = score_scene(window(agent(35, 1.0, 3, 0)), RISK, KINEMATICS).risk
    assert score_scene(window(agent(35, 1.0, 3, 0, hz=hz)), RISK, KINEMATICS).risk == pytest.approx(often, abs=0.08)


def test_cones_and_barriers_are_no_road_users():
    for name in ("movable_object.trafficcone", "movable_object.barrier", "BOLLARD", "SIGN", "STOP_SIGN"):
        assert not is_road_user(name)
    for name in ("vehicle.car", "human.pedestrian.adult", "TRUCK", "motorcycle", "SIGNALMAN", "VEHICULAR_TRAILER"):
        assert is_road_user(name)
    assert score_scene(window(agent(30, 0, 0, 0, category="movable_object.barrier")), RISK, KINEMATICS).risk == 0.0


def test_a_track_that_is_not_a_number_is_refused():
    bad = agent(30, 0, 0, 0)
    bad.states[3, 0] = np.nan
    with pytest.raises(DataError, match=r"nan_agent.*track a"):
        score_scene(window(bad), RISK, KINEMATICS)


def test_agreement_with_other_peoples_programs_on_a_few_real_logs(data_root):
    figures = judge(data_root, max_logs=2)
    assert figures["frames"] > 150
    assert figures["ttcstar_agree_share"] >= 0.97
    assert figures["sumo_ttc_median_abs_s"] <= 0.05
