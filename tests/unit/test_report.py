"""The HTML report."""

from __future__ import annotations

import re

from system.report.birds_eye import BirdsEye, PlottedTrack
from system.report.charts import birds_eye_svg
from system.report.content import CardPicture, QuarantineRow, RunReport, SceneCard, StageTime
from system.report.html import render_report

HOSTILE = '"><script>alert(1)</script>'
EGO = PlottedTrack("ego", False, (4.0, 1.8), ((0.0, 0.0, 0.0), (10.0, 0.0, 0.0)))
AHEAD = PlottedTrack("vehicle", True, (4.0, 1.8), ((12.0, 0.0, 0.0),))


def _card(**changes: object) -> SceneCard:
    values = {
        "rank": 1, "scene_id": "ab" * 16, "log_id": HOSTILE, "source": HOSTILE, "t_start_ns": 0, "t_end_ns": 4 * 10**9,
        "hardness": 0.9, "risk_rank": 0.9, "ambiguity_rank": None, "rarity_rank": 0.5, "risk": 0.4,
        "risk_source": "tracks",
        "ambiguity_m": None, "rarity": 0.2, "tags": ((HOSTILE, 0.7),), "all_tags": ((HOSTILE, 0.7),),
        "truth_tags": (HOSTILE,), "description": HOSTILE, "why": HOSTILE, "flags": (HOSTILE,),
        "pictures": (CardPicture(HOSTILE, 0, b"jpeg"),), "birds_eye": BirdsEye(EGO, (AHEAD,)),
    }  # fmt: skip
    return SceneCard(**{**values, **changes})


def _report(*cards: SceneCard, problem: str | None = None) -> RunReport:
    counts = {"found": 3, "committed": 2, "already": 1, "quarantined": 0, "remaining": 0, "images": 4, "seconds": 1.0}
    return RunReport(
        run_id=HOSTILE,
        status="finished",
        started="now",
        model=HOSTILE,
        store=HOSTILE,
        figures={**counts, "problem": problem},
        weights={"risk": 0.5, "ambiguity": 0.25, "rarity": 0.25},
        stages=(StageTime("forward pass", 2.0, 40, "pictures"),),
        cards=cards,
        quarantine=(QuarantineRow("scene", HOSTILE, "read", HOSTILE, HOSTILE),),
        quarantine_total=1,
        hardness=(0.1, 0.9),
        risk=(0.4,),
    )


def test_no_text_of_a_log_becomes_markup():
    page = render_report(_report(_card()))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_the_page_asks_nobody_for_anything():
    page = render_report(_report(_card()))
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
    assert "default-src 'none'" in page


def test_what_is_not_known_is_said_and_a_problem_stands_out():
    page = render_report(_report(_card(), problem="3 of 9 scenes are nowhere"))
    assert "not known" in page
    assert '<p class="problem" role="alert">3 of 9 scenes are nowhere' in page


def test_an_empty_run_is_a_page():
    assert "No scene has been ranked yet" in render_report(_report())


def test_what_lies_ahead_is_drawn_above_the_ego():
    def middle(name: str) -> float:
        corners = re.search(rf'class="box {name}" points="([^"]+)"', str(birds_eye_svg(BirdsEye(EGO, (AHEAD,)))))[1]
        return sum(float(corner.split(",")[1]) for corner in corners.split()) / 4

    assert middle("k-vehicle worst") < middle("k-ego")


def test_a_plot_survives_the_store():
    plot = BirdsEye(EGO, (AHEAD,))
    assert BirdsEye.from_json(plot.to_json()) == plot


def test_pictures_stand_as_a_driver_would_see_them():
    names = ["CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "IR_FRONT"]
    page = render_report(_report(_card(pictures=tuple(CardPicture(name, 0, b"jpeg") for name in names))))
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    assert captions == ["front left", "front", "front right", "back left", "back", "ir front"]
