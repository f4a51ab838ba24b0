"""A night beside those before it: figures, drift, alerts, the budget, and the page."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from system.pipelines.nightly.budget import BudgetMeter
from system.pipelines.nightly.comparing import compare_nights, embedding_drift
from system.pipelines.nightly.config import AlertConfig, BudgetConfig
from system.pipelines.nightly.figures import NightFigures, night_figures
from system.report.content import QuarantineRow
from system.report.night import LogRow, NightReport, NightRow, TagRow, render_night
from system.store.commits import append_rows
from system.store.schema import QUARANTINE, quarantine_schema
from tests.mined_store import RUN_ID, mine_without_model
from tests.plain_logs import write_plain_log

FEW = AlertConfig(min_scenes=10)


def night(scenes: int = 100, **more) -> NightFigures:
    values = {"scenes": scenes, "tags": {"night": scenes // 2}, "with_risk": scenes, "risk_mean": 0.2, "risk_p90": 0.5,
              "with_embedding": scenes, "centroid": (1.0, 0.0)} | more  # fmt: skip
    return NightFigures(**values)


def codes(compared) -> list[str]:
    return [alert.code for alert in compared.alerts]


def test_figures_are_those_of_the_nights_runs_alone(tmp_path):
    write_plain_log(tmp_path / "fleet", "a", seconds=12)
    location = mine_without_model(tmp_path / "fleet", tmp_path / "store")
    fault = {"quarantine_id": "q", "level": "log", "model_id": "m1", "run_id": RUN_ID, "uri": "/x", "stage": "list",
             "code": "damaged_json", "message": "..."}  # fmt: skip
    faults = [fault, {**fault, "quarantine_id": "r", "level": "frame", "code": "empty_file"}]
    append_rows(location, QUARANTINE, pa.Table.from_pylist(faults, schema=quarantine_schema()))
    figures = night_figures(location, "m1", [RUN_ID, "another's"])
    rows = location.dataset("scenes").to_table(columns=["risk", "embedding"])
    assert (figures.scenes, figures.tags, figures.with_embedding) == (3, {"night": 3}, 3)
    assert figures.risk_mean == pytest.approx(np.mean(rows["risk"].to_pylist()), abs=1e-6)
    assert figures.centroid == pytest.approx(np.mean(rows["embedding"].to_pylist(), axis=0), abs=1e-5)
    # A picture that cannot be read costs no scene.
    assert (figures.quarantined, figures.codes, figures.quarantine_share) == (1, {"damaged_json": 1}, 0.25)
    assert night_figures(location, "m1", ["another's"]) == NightFigures()
    assert NightFigures.from_json(figures.as_json()) == figures


def test_a_night_like_the_others_calls_for_no_look():
    compared = compare_nights(night(), [night(), night(80)], FEW)
    assert not compared.alerts and compared.nights == 2 and compared.scenes_mean == 90
    assert compared.risk_change == pytest.approx(0.0) and compared.embedding_drift == pytest.approx(0.0)


def test_drift_is_the_cosine_distance_of_mean_embeddings_and_large_nights_weigh_more():
    assert embedding_drift(night(centroid=(0.0, 0.5)), [night()]) == pytest.approx(1.0)
    assert embedding_drift(night(centroid=(-1.0, 0.0)), [night()]) == pytest.approx(2.0)
    pooled = [night(300), night(100, centroid=(0.0, 1.0))]
    assert embedding_drift(night(), pooled) == pytest.approx(1 - 0.75 / np.hypot(0.75, 0.25))
    assert embedding_drift(night(with_embedding=0, centroid=()), pooled) is None
    assert embedding_drift(night(), [night(centroid=(1.0, 0.0, 0.0))]) is None  # of another width


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"centroid": (0.0, 1.0)}, "embedding_drift"),
        ({"tags": {"night": 50, "fog": 60}}, "tag_share"),
        ({"risk_mean": 0.5}, "risk"),
        ({"quarantined": 30, "codes": {"empty_file": 30}}, "quarantine"),
    ],
)
def test_each_change_is_told_once_it_is_past_its_threshold(changed, code):
    compared = compare_nights(night(**changed), [night()], FEW)
    assert codes(compared) == [code]
    alert = compared.alerts[0]
    assert alert.value is not None and alert.threshold is not None and abs(alert.value) > alert.threshold
    off = AlertConfig(min_scenes=10, embedding_drift=None, tag_share_change=None, risk_change=None,
                      quarantine_share=None)  # fmt: skip
    assert not compare_nights(night(**changed), [night()], off).alerts


def test_few_scenes_are_told_and_a_small_night_is_not_compared():
    compared = compare_nights(night(5, centroid=(0.0, 1.0), risk_mean=0.9), [night(), night()], FEW)
    assert codes(compared) == ["few_scenes"]
    assert "fewer than 30" in compared.alerts[0].message
    assert not compare_nights(night(), [], FEW).alerts
    assert "no earlier night" in compare_nights(night(), [], FEW).sentences(night())[0]


def test_a_budget_counts_hours_and_the_time_of_every_node():
    now_s, nodes = [0.0], [1]

    def meter(**values) -> BudgetMeter:
        return BudgetMeter(BudgetConfig(**values), lambda: now_s[0], lambda: nodes[0])

    hours, money, none = meter(hours=2), meter(money=10, price_per_hour=2), meter()
    now_s[0] = 3600.0
    assert not hours.is_spent() and not money.is_spent()
    now_s[0], nodes[0] = 7200.0, 4
    assert hours.is_spent() and hours.spent == "2 hours"
    assert money.is_spent() and money.cost == pytest.approx(2 * (1 + 4)) and "5.0 node-hours" in str(money.spent)
    assert not none.is_spent() and none.cost is None


def test_the_page_of_a_night_escapes_everything_and_asks_nobody_for_anything():
    hostile = '"><script>alert(1)</script>'
    figures = {"days": [hostile, hostile], "version_tag": hostile, "run_id": hostile, "new_logs": 1, "found": 3,
               "committed": 2, "already": 1, "quarantined": 0, "left_for_next_night": 1, "seconds": 60.0, "cost": 1.5,
               "missed_nights": [hostile]}  # fmt: skip
    log = LogRow(hostile, hostile, hostile)
    page = render_night(
        NightReport(
            day=hostile, store=hostile, model=hostile, figures=figures, alerts=((hostile, hostile),),
            sentences=(hostile,), nights=(NightRow(hostile, 3, 0.1, None), NightRow(hostile, 2, 0.0, 0.4, True)),
            tags=(TagRow(hostile, 0.5, None), TagRow("b", 0.5, 0.1)), late=(log,), reuploaded=(log,),
            quarantine=(QuarantineRow("log", hostile, "list", hostile, hostile),), quarantine_total=300,
            empty=(hostile,), skipped=((hostile, hostile),), cards=(), weights={},
        )
    )  # fmt: skip
    assert "<script" not in page and "not known" in page and "the first 1 of them" in page
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
    assert "default-src 'none'" in page and "script-src" not in page
