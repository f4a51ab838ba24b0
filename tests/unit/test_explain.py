"""Claims about the sentence that says why a scene is hard."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.miner.explain import why_hard
from system.miner.hardness import HardnessWeights

PEDESTRIAN = {
    "agents": [{"track_id": "3f2a99", "category": "human.pedestrian.adult", "min_ttc_s": 0.9, "min_dce_m": 0}]
}
MAYBE = st.one_of(st.none(), st.floats(0, 1), st.just(float("nan")))


def test_the_worst_agent_and_the_rare_look_are_named_with_their_place():
    row = {"risk": 0.7, "risk_source": "tracks", "risk_rank": 0.985, "rarity_rank": 0.965, "ranked_among": 200}
    assert why_hard(row, PEDESTRIAN) == (
        "Pedestrian 3f2a would be hit in 0.9 s if both kept their velocity (risk above 98 % of scenes); "
        "rare look (top 4 %)."
    )


def test_tags_and_ambiguity_are_told():
    row = {"ambiguity": 11.6, "ambiguity_rank": 0.95, "ranked_among": 400, "tags": ["night", "close_lead"]}
    assert why_hard(row) == "The ego's possible paths end 12 m apart (top 5 %); tagged night, close lead."


def test_a_scene_of_which_nothing_is_known_claims_nothing():
    assert why_hard({}) == "Nothing is known that could rank it."
    assert (
        why_hard({"risk_rank": float("nan"), "tags": ["rain"]}) == "Nothing is known that could rank it; tagged rain."
    )


def test_an_ordinary_scene_says_so():
    assert why_hard({"risk": 0.1, "risk_rank": 0.4, "rarity_rank": 0.5}) == "Nothing stands out."


def test_a_rank_among_few_scenes_is_no_percentage():
    why = why_hard({"risk": 0.5, "risk_source": "ego", "risk_rank": 0.9, "ranked_among": 5})
    assert why == "Risk from the ego's own motion above most scenes."


def test_an_encounter_that_never_happens_is_not_told():
    far = {"agents": [{"track_id": "a", "category": "car", "min_ttc_s": float("inf"), "min_dce_m": 8.0}]}
    assert "car" not in why_hard({"risk": 0.2, "risk_rank": 0.9}, far).lower()
    assert why_hard({"risk": 0.0, "risk_rank": 0.9}, {"agents": []}) == "Nothing stands out."


def test_hard_braking_of_the_ego_is_told_where_no_agent_is_known():
    why = why_hard({"risk": 0.3, "risk_source": "ego", "risk_rank": 0.97}, {"agents": [], "max_braking_mps2": 6.23})
    assert why == "The ego braked with 6.2 m/s² (risk above 97 % of scenes)."


def test_a_component_that_does_not_count_is_no_reason():
    row = {"rarity_rank": 0.99, "risk": 0.5, "risk_rank": 0.99}
    assert "rare" not in why_hard(row, weights=HardnessWeights(rarity=0))


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("vehicle.car", "Car"),
        ("REGULAR_VEHICLE", "Regular vehicle"),
        ("movable_object.barrier", "Barrier"),
        ("", "Object"),
    ],
)
def test_categories_of_every_data_set_become_words(category, name):
    assert why_hard({}, {"agents": [{"category": category, "min_ttc_s": 1.0}]}).startswith(f"{name} would be hit")


@given(
    risk=MAYBE,
    ranks=st.tuples(MAYBE, MAYBE, MAYBE),
    ttc=st.one_of(st.none(), st.floats(0, 10), st.just(float("inf"))),
    distance=st.one_of(st.none(), st.floats(0, 50)),
    spread=st.one_of(st.none(), st.floats(0, 100)),
    among=st.one_of(st.none(), st.integers(1, 10_000)),
)
def test_it_is_always_one_sentence_without_nan_none_or_inf(risk, ranks, ttc, distance, spread, among):
    row = {"risk": risk, "ambiguity": spread, "ranked_among": among, "tags": None}
    row |= dict(zip(("risk_rank", "ambiguity_rank", "rarity_rank"), ranks, strict=True))
    detail = {"agents": [{"track_id": "x", "category": "car", "min_ttc_s": ttc, "min_dce_m": distance}]}
    why = why_hard(row, json.loads(json.dumps(detail)))
    assert why.endswith(".") and "\n" not in why
    words = why.lower().replace(".", " ").replace("(", " ").split()
    assert not {"nan", "none", "inf"} & set(words) and "100 %" not in why and " 0 %" not in why
