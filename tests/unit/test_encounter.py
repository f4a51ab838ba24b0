"""Claims about first contact, closest encounter and worst encounter of two oriented boxes."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from system.miner.boxes import box_corners, box_distance
from system.miner.encounter import closest_encounter, time_to_collision, worst_encounter_intensity

COORDINATE = st.floats(-30, 30)
BOX = st.tuples(COORDINATE, COORDINATE, st.floats(-4, 4), st.floats(0.3, 12), st.floats(0.3, 3)).map(np.array)
VELOCITY = st.tuples(st.floats(-25, 25), st.floats(-25, 25)).map(np.array)
CAR = np.array([0.0, 0.0, 0.0, 4.0, 2.0])


def polygon_at(box, velocity, t_s):
    moved = np.array(box, dtype=float)
    moved[:2] += velocity * t_s
    return shapely.Polygon(box_corners(moved))


def test_head_on_contact_is_gap_over_closing_speed():
    other = np.array([24.0, 0.0, np.pi, 4.0, 2.0])
    ttc = time_to_collision(CAR, other, np.array([10.0, 0.0]), np.array([-10.0, 0.0]))
    assert ttc == pytest.approx(1.0)


def test_boxes_passing_in_the_next_lane_never_meet():
    other = np.array([20.0, 3.5, np.pi, 4.0, 2.0])
    assert time_to_collision(CAR, other, np.array([10.0, 0.0]), np.array([-10.0, 0.0])) == np.inf
    _, dce = closest_encounter(CAR, other, np.array([10.0, 0.0]), np.array([-10.0, 0.0]))
    assert dce == pytest.approx(1.5)


def test_overlapping_boxes_have_ttc_zero_even_when_they_part():
    assert time_to_collision(CAR, CAR + [1, 0, 0, 0, 0], np.zeros(2), np.array([5.0, 0.0])) == 0.0


@given(BOX, BOX)
def test_box_distance_equals_shapely(a, b):
    expected = shapely.distance(shapely.Polygon(box_corners(a)), shapely.Polygon(box_corners(b)))
    assert box_distance(a, b) == pytest.approx(expected, abs=1e-6)


@given(BOX, BOX, VELOCITY, VELOCITY)
def test_first_contact_and_closest_encounter_equal_shapely_on_a_fine_grid(a, b, va, vb):
    grid_s = np.linspace(0, 3, 61)
    distances = np.array([shapely.distance(polygon_at(a, va, t), polygon_at(b, vb, t)) for t in grid_s])
    ttc = float(time_to_collision(a, b, va, vb))
    ttce, dce = closest_encounter(a, b, va, vb)
    if np.isfinite(ttc):
        assert distances.min() >= 0 and shapely.distance(polygon_at(a, va, ttc), polygon_at(b, vb, ttc)) < 1e-6
        before = grid_s[grid_s < ttc - 1e-6]
        assert all(distances[: len(before)] > 0)
        assert dce == 0
    else:
        # The grid may step over a grazing contact, never invent one.
        assert distances.min() > -1e-9 and (distances.min() > 0 or dce < 1e-6)
    relative_speed = np.hypot(*(vb - va))
    assert dce <= distances.min() + 1e-6
    assert dce >= distances.min() - relative_speed * (grid_s[1] - grid_s[0]) - 1e-6
    assert shapely.distance(polygon_at(a, va, ttce), polygon_at(b, vb, ttce)) == pytest.approx(float(dce), abs=1e-5)


@given(BOX, BOX, VELOCITY, VELOCITY)
def test_worst_encounter_is_the_maximum_over_the_rollout(a, b, va, vb):
    intensity = float(worst_encounter_intensity(a, b, va, vb, 1.5, 1.0))
    grid_s = np.linspace(0, 3, 301)
    moved = np.repeat(b[None], len(grid_s), 0)
    moved[:, :2] += (vb - va) * grid_s[:, None]
    on_grid = np.exp(-grid_s / 1.5 - box_distance(a[None], moved) ** 2).max()
    assert intensity >= on_grid - 1e-9
    ttce, dce = closest_encounter(a, b, va, vb)
    assert intensity >= np.exp(-ttce / 1.5 - dce**2) - 1e-9


@given(
    gap=st.floats(0.1, 60),
    nearer=st.floats(0, 1),
    closing=st.floats(0, 30),
    faster=st.floats(0, 20),
    side=st.floats(0, 6),
)
def test_nearer_or_faster_closing_never_lowers_intensity(gap, nearer, closing, faster, side):
    def intensity(gap_m, closing_mps):
        other = np.array([4.0 + gap_m, side, 0.0, 4.0, 2.0])
        return float(worst_encounter_intensity(CAR, other, np.array([closing_mps, 0.0]), np.zeros(2), 1.5, 1.0))

    assert intensity(gap * nearer, closing) >= intensity(gap, closing) - 1e-9
    assert intensity(gap, closing + faster) >= intensity(gap, closing) - 1e-9


def test_thousands_of_pairs_take_well_under_a_second():
    import time

    rng = np.random.default_rng(0)
    boxes = rng.uniform([-30, -30, -3, 1, 1], [30, 30, 3, 6, 3], (5000, 5))
    velocities = rng.uniform(-15, 15, (5000, 2))
    start = time.perf_counter()
    time_to_collision(CAR, boxes, np.zeros(2), velocities)
    closest_encounter(CAR, boxes, np.zeros(2), velocities)
    assert time.perf_counter() - start < 1.0
