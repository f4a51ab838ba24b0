"""Claims about the surrogate safety measures, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from system.miner.surrogates import (
    deceleration_rate_to_avoid_crash,
    lead_time_to_collision,
    post_encroachment_time,
    time_exposed_ttc,
    time_headway,
    time_integrated_ttc,
)


def test_lead_ttc_without_acceleration_is_gap_over_closing_speed():
    assert lead_time_to_collision(20.0, 15.0, 10.0, 0.0, 0.0) == pytest.approx(4.0)
    assert lead_time_to_collision(20.0, 10.0, 15.0, 0.0, 0.05) == np.inf


@pytest.mark.parametrize(
    ("gap", "ve", "vo", "ae", "ao"), [(20.0, 15.0, 15.0, 0.0, -4.0), (30.0, 20.0, 10.0, -1.0, -3.0), (10, 5, 9, 2, -1)]
)
def test_lead_ttc_with_acceleration_closes_the_gap_exactly(gap, ve, vo, ae, ao):
    t = float(lead_time_to_collision(gap, ve, vo, ae, ao))
    assert t > 0
    assert gap + (vo - ve) * t + 0.5 * (ao - ae) * t**2 == pytest.approx(0.0, abs=1e-9)


def test_a_leader_that_pulls_away_in_time_is_never_reached():
    assert lead_time_to_collision(20.0, 12.0, 10.0, -3.0, 2.0) == np.inf


def test_drac_and_headway():
    assert deceleration_rate_to_avoid_crash(10.0, 20.0, 10.0) == pytest.approx(5.0)
    assert deceleration_rate_to_avoid_crash(10.0, 10.0, 20.0) == 0.0
    assert deceleration_rate_to_avoid_crash(0.0, 20.0, 10.0) == np.inf
    assert time_headway(20.0, 10.0) == pytest.approx(2.0)
    assert time_headway(20.0, 0.0) == np.inf


def test_exposure_counts_only_time_under_the_threshold():
    ttc = np.array([np.inf, 3.0, 2.0, 1.0, 4.0])
    assert time_exposed_ttc(ttc, 0.1, 2.5) == pytest.approx(0.2)
    assert time_integrated_ttc(ttc, 0.1, 2.5) == pytest.approx(0.1 * (0.5 + 1.5))


def test_post_encroachment_time_of_a_right_angle_crossing():
    t = np.arange(0.0, 10.01, 0.5)
    a = np.stack([10 * t - 50, 0 * t, 0 * t, 0 * t + 4, 0 * t + 2], -1)
    b = np.stack([0 * t, 10 * t - 70, 0 * t + np.pi / 2, 0 * t + 4, 0 * t + 2], -1)
    # The shared area is |x| < 1, |y| < 1: a's rear leaves it at x = 3 (5.3 s), b's front enters at y = -3 (6.7 s).
    assert post_encroachment_time(t, a, t, b) == pytest.approx(1.4, abs=0.01)


def test_paths_that_share_nothing_have_no_post_encroachment_time():
    t = np.arange(0.0, 5.0, 0.5)
    a = np.stack([10 * t, 0 * t, 0 * t, 0 * t + 4, 0 * t + 2], -1)
    assert post_encroachment_time(t, a, t, a + [0, 5, 0, 0, 0]) == np.inf
