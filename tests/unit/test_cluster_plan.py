"""The planner's arithmetic, checked by hand, and what it says when a night cannot be done."""

from __future__ import annotations

import json

import pytest

from system.errors import ConfigError
from system.pipelines.cluster_plan import Borne, Machine, Night, plan_cluster
from tests.cluster.jobs import call_job

NIGHT = Night(scenes=100_000, pictures_per_scene=40, deadline_hours=2)
MACHINE = Machine(images_per_s=400, price_per_hour=1.5, spot_loss=0.0, start_minutes=6)
AT_ONCE = Borne(request_s=1e-9)


def test_nodes_hours_and_money_by_hand():
    plan = plan_cluster(NIGHT, MACHINE, AT_ONCE)
    # 4,000,000 pictures at 400 a second are 10,000 node seconds; 7200 s less 360 and 2 of listing leave 6838.
    assert plan.nodes == 2 and plan.is_in_time and plan.bound == "GPUs"
    assert plan.hours == pytest.approx((360 + 2 + 5000) / 3600, abs=0.01)
    assert plan.money == pytest.approx(2 * (360 + 2 + 5000) / 3600 * 1.5, abs=0.01)
    assert plan.scenes_per_s == pytest.approx(20, abs=0.01)
    per_scene = 4 * 384 + 12_000 * 40 + 2000
    assert plan.store_gib_per_night == pytest.approx(100_000 * per_scene / 1024**3, abs=0.01)
    assert plan.store_gib == pytest.approx(365 * plan.store_gib_per_night + plan.kept_nights_gib, rel=1e-3)


def test_nights_that_are_kept_as_they_were_by_hand():
    for kept, nights in ((1, 365), (2, 364 + 365), (None, 365 * 366 / 2), (999, 365 * 366 / 2)):
        plan = plan_cluster(NIGHT.model_copy(update={"keep_nights": kept}), MACHINE)
        assert plan.kept_nights_gib == pytest.approx(76 * 100_000 * nights / 1024**3, abs=0.05)


def test_requests_of_an_object_store_for_each_log_by_hand():
    plan = plan_cluster(NIGHT, MACHINE)
    # 10,000 logs a day, four days: 1.5 requests each one after another and 3 each by 16 threads; then 3 of each mined.
    loads = {part.name: part.load * 0.25 * 7200 for part in plan.parts}
    assert loads["listing before the first picture"] == pytest.approx(2 + 40_000 * 1.5 * 0.03, rel=1e-3)
    assert loads["fingerprints before the first picture"] == pytest.approx(40_000 * 3 * 0.03 / 16, rel=1e-3)
    assert loads["labelling after the last commit"] == pytest.approx(10_000 * 3 * 0.03, rel=1e-3)
    assert plan.hours == pytest.approx((360 + 1802 + 225 + 10_000 / plan.nodes) / 3600, abs=0.01)
    assert plan.breaks_first == "listing before the first picture"
    tables = plan_cluster(NIGHT.model_copy(update={"late_days": 0}), MACHINE, Borne(listing_requests=0))
    assert tables.breaks_first == "labelling after the last commit" and tables.hours < plan.hours


def test_the_smallest_cluster_that_is_in_time():
    for hours in (0.5, 1, 3, 9):
        plan = plan_cluster(NIGHT.model_copy(update={"deadline_hours": hours}), MACHINE, AT_ONCE)
        assert plan.is_in_time and plan.hours <= hours
        if plan.nodes > 1:
            smaller = MACHINE.model_copy(update={"most_nodes": plan.nodes - 1})
            assert not plan_cluster(NIGHT.model_copy(update={"deadline_hours": hours}), smaller, AT_ONCE).is_in_time


def test_nodes_whose_cpus_cannot_feed_the_gpus_are_said_so():
    plan = plan_cluster(NIGHT, MACHINE.model_copy(update={"cpus": 2}))
    assert plan.bound == "CPUs that decode" and plan.nodes > plan_cluster(NIGHT, MACHINE).nodes


@pytest.mark.parametrize(
    ("night", "borne", "part"),
    [
        ({}, {"commits_per_s": 0.001}, "commits"),
        ({"nights": 10_000}, {"id_bytes": 1}, "memory of ranking"),
        ({"nights": 1}, {"id_bytes": 1_000_000}, "memory of the driver"),
        ({}, {"listed_per_s": 1}, "listing before the first picture"),
        ({}, {"bucket_gib_per_s": 0.001}, "reading from the bucket"),
        ({}, {"fingerprint_requests": 1e10}, "fingerprints before the first picture"),
        ({}, {"labelling_requests": 1e10}, "labelling after the last commit"),
        ({"deadline_hours": 0.1001, "nights": 1, "picture_kb": 1}, {"commits_per_s": 9}, "nodes"),
    ],
)
def test_the_part_that_gives_out_first_is_named(night, borne, part):
    plan = plan_cluster(NIGHT.model_copy(update=night), MACHINE, Borne.parse({"request_s": 1e-9} | borne, "test"))
    assert plan.breaks_first == part and plan.scales <= 1
    assert max(plan.parts, key=lambda p: p.load).name == part


def test_a_deadline_shorter_than_the_start_of_a_node_is_not_met():
    plan = plan_cluster(NIGHT.model_copy(update={"deadline_hours": 0.05}), MACHINE)
    assert not plan.is_in_time and plan.nodes == MACHINE.most_nodes


def test_a_small_night_may_grow_until_its_largest_load_is_full():
    machine = Machine(images_per_s=2, price_per_hour=1, most_nodes=100_000)
    plan = plan_cluster(Night(scenes=10), machine)
    assert plan.scales == pytest.approx(1 / max(part.load for part in plan.parts), rel=1e-3) and plan.scales > 10_000


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_is_not_finite_is_refused_by_name(value):
    for kind, name in ((Night, "deadline_hours"), (Machine, "images_per_s"), (Borne, "head_gib")):
        with pytest.raises(ConfigError, match=rf"{name}: Input should be a finite number"):
            kind.parse({"scenes": 1, "price_per_hour": 1, name: value}, "options")


def test_the_job_prints_a_table_and_its_assumptions():
    given = ("--scenes", "1000000", "--images-per-s", "2000", "--price-per-hour", "0.8")
    done = call_job("plan_cluster", *given)
    assert done.code == 0, done.stderr
    assert "first to give out" in done.stdout
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert figures["assumed"]["machine"]["images_per_s"] == 2000 and figures["is_in_time"] is True
    wrong = call_job("plan_cluster", "--scenes", "0", *given[2:])
    assert wrong.code == 2 and "scenes: " in wrong.stderr and "Traceback" not in wrong.stderr
    with pytest.raises(ConfigError):
        Machine.parse({"images_per_s": -1, "price_per_hour": 1}, "test")
