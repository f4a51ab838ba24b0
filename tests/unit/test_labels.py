"""Labels: what is known of a scene, by which rule; unknown stays unknown; splits part no group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from system.errors import ConfigError, DataError
from system.labels.rules import DEFAULT_PATH, load_rules
from system.labels.split import split_by_group
from system.labels.table import ABSENT, PRESENT, UNKNOWN, Labels, disagreements, read_given, read_labels, write_labels
from system.logs.windows import WindowConfig
from system.miner.taxonomy import load_taxonomy
from system.pipelines.labelling import LabelledLogs, label_logs
from tests.plain_logs import write_plain_log

TAXONOMY = load_taxonomy(None)
RULES = load_rules(None, TAXONOMY)


def _label(*logs: Path, rules=RULES, given=None) -> LabelledLogs:
    return label_logs(tuple(map(str, logs)), WindowConfig(), rules, TAXONOMY, given or {})


def _column(tag: str) -> int:
    return TAXONOMY.names.index(tag)


def _write_listed(root: Path, rows: str) -> Path:
    root.mkdir(parents=True)
    (root / "frames.csv").write_text("path,dataset,sequence,tags\n" + rows)
    for row in rows.splitlines():
        (root / row.split(",")[0]).write_bytes(b"")
    return root


def test_tracks_decide_what_they_can_and_leave_the_rest_unknown(tmp_path: Path):
    done = _label(write_plain_log(tmp_path / "fleet", "a", seconds=8).parent)
    assert len(done.rows) == 2 and not done.faults
    values = done.rows[0].values()
    assert values["pedestrian"] and not values["cyclist"] and not values["turning"]
    assert "night" not in values and "fog" not in values
    assert {vote.rule for vote in done.rows[0].votes} == {"tracks"}
    assert done.rows[0].risk is not None and 0 < done.rows[0].risk < 1


def test_a_scene_without_tracks_has_no_risk(tmp_path: Path):
    folder = write_plain_log(tmp_path / "fleet", "a", with_agents=False).parent
    assert all(row.risk is None for row in _label(folder).rows)


def test_words_decide_only_what_their_source_tells_completely(tmp_path: Path):
    root = _write_listed(
        tmp_path / "frames",
        "a.png,camvid,s1,daytime;bicyclist\nb.png,camvid,s2,dusk\nc.png,dawn_fog,,fog;truck\nd.png,mine,,night\n",
    )
    a, b, c, d = (row.values() for row in sorted(_label(root).rows, key=lambda row: row.log_id))
    assert a == {
        "night": False, "dusk": False, "fog": False, "cyclist": True, "pedestrian": False, "many_pedestrians": False
    }  # fmt: skip
    assert b["dusk"] and not b["night"]
    assert c["fog"] and c["large_vehicle"] and not c["pedestrian"] and "night" not in c
    assert d == {}, "no rule speaks of a source that nobody described"


def test_a_description_is_read_as_words_and_its_negations_as_their_contrary(tmp_path: Path):
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rules]]\nname="words"\nfrom="description"\ncomplete=["rain"]\n[rules.present]\nrain=["rain"]\nnight=["night"]\n'
    )
    (rule,) = load_rules(rules, TAXONOMY).rules
    write_plain_log(tmp_path / "fleet", "a")

    def votes(text: str) -> dict[str, bool]:
        log = tmp_path / "fleet" / "a" / "log.json"
        log.write_text(json.dumps({**json.loads(log.read_text()), "description": text}))
        done = _label(tmp_path / "fleet", rules=load_rules(rules, TAXONOMY))
        return done.rows[0].values()

    assert rule.origin == "description"
    assert votes("Night, heavy rain") == {"night": True, "rain": True}
    assert votes("No rain, night") == {"night": True, "rain": False}
    assert votes("a train passes") == {"rain": False}


def test_of_two_rules_the_first_counts_and_both_are_shown(tmp_path: Path):
    folder = write_plain_log(tmp_path / "fleet", "a", seconds=8).parent
    done = _label(folder, given={"a": {"pedestrian": False, "fog": True}})
    assert all(not row.values()["pedestrian"] and row.values()["fog"] for row in done.rows)
    (pair,) = [pair for pair in disagreements(done.rows) if pair["tag"] == "pedestrian"]
    assert (pair["first"], pair["second"], pair["only_second"], pair["both_present"]) == ("given", "tracks", 2, 0)


def test_a_table_returns_what_was_written(tmp_path: Path):
    done = _label(write_plain_log(tmp_path / "fleet", "a", seconds=8).parent)
    write_labels(tmp_path / "labels.parquet", done.rows, TAXONOMY, RULES)
    labels = read_labels(tmp_path / "labels.parquet", TAXONOMY)
    assert labels.scene_ids == tuple(row.scene_id for row in done.rows)
    for n, row in enumerate(done.rows):
        values = row.values()
        for k, tag in enumerate(TAXONOMY.names):
            expected = UNKNOWN if tag not in values else PRESENT if values[tag] else ABSENT
            assert labels.values_NK[n, k] == expected
    assert labels.risk_N == pytest.approx([row.risk for row in done.rows])
    # The ego drives straight at 10 m/s; after the last window nothing is known.
    assert labels.future_NT2[0] == pytest.approx(np.stack([np.arange(1, 7) * 5.0, np.zeros(6)], -1), abs=1e-4)
    assert np.isnan(labels.future_NT2[-1]).all()


def test_a_table_of_another_taxonomy_is_refused_by_what_differs(tmp_path: Path):
    text = (DEFAULT_PATH.parents[1] / "miner" / "taxonomy.toml").read_text()
    (tmp_path / "other.toml").write_text(text.replace('"fog"', '"smoke"').replace("[tags.fog]", "[tags.smoke]"))
    other = load_taxonomy(tmp_path / "other.toml")
    write_labels(tmp_path / "labels.parquet", [], TAXONOMY, RULES)
    with pytest.raises(DataError, match=r"another taxonomy.*fog.*smoke"):
        read_labels(tmp_path / "labels.parquet", other)


def test_a_file_that_is_no_label_table_is_refused(tmp_path: Path):
    (tmp_path / "labels.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="expected a label table"):
        read_labels(tmp_path / "labels.parquet", TAXONOMY)
    with pytest.raises(DataError, match="expected a label table"):
        read_labels(tmp_path / "missing.parquet", TAXONOMY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scene_id,tag\nx,fog\n", "expected the columns scene_id, tag, value"),
        ("scene_id,tag,value\nx,smoke,1\n", "line 2: unknown tag 'smoke'"),
        ("scene_id,tag,value\nx,fog,1\nx,rain,maybe\n", "line 3: value 'maybe'"),
        ("scene_id,tag,value\nx,fog\n", "line 2: value ''"),
    ],
)
def test_given_labels_are_refused_by_line(tmp_path: Path, text: str, said: str):
    (tmp_path / "given.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_given(tmp_path / "given.csv", TAXONOMY.names)


def test_given_ids_that_are_in_no_log_are_refused(tmp_path: Path):
    folder = write_plain_log(tmp_path / "fleet", "a").parent
    with pytest.raises(DataError, match=r"1 of the given ids are in none of the logs, e.g. b"):
        _label(folder, given={"a": {"fog": True}, "b": {"fog": True}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules = 3", "rules"),
        ('[[rules]]\nname="x"\nfrom="tags"\n', "decides nothing"),
        ('[[rules]]\nname="x"\nfrom="tags"\ncomplete=["smoke"]\n', "'x' names tags that the taxonomy lacks: smoke"),
        ('[[rules]]\nname="x"\nfrom="guess"\ncomplete=["fog"]\n', "from"),
        ('[[rules]]\nname="x"\nfrom="tracks"\n[[groups]]\nsources=["a"]\npattern="("\n', "pattern"),
        ('[[rules]]\nname="x"\nfrom="tracks"\n[[groups]]\nsources=["a"]\npattern="a"\n', "expected one"),
    ],
)
def test_wrong_rules_are_refused(tmp_path: Path, text: str, said: str):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_rules(tmp_path / "rules.toml", TAXONOMY)


def _labels(groups: list[str], tags: dict[str, list[int]]) -> Labels:
    values = np.zeros((len(groups), len(TAXONOMY.names)), np.int8)
    for tag, rows in tags.items():
        values[rows, _column(tag)] = PRESENT
    ids = tuple(str(n) for n in range(len(groups)))
    count = len(groups)
    unknown = np.full((count, 6, 2), np.nan, np.float32)
    risk, pictures = np.zeros(count, np.float32), np.ones(count, np.bool_)
    return Labels(ids, ids, ("s",) * count, tuple(groups), ("",) * count, values, risk, pictures, unknown)


def test_every_part_of_a_split_can_learn_and_be_judged_by_risk():
    """Validation once got no scene with risk, and the epoch was chosen without it."""
    groups = [f"street-{n}" for n in range(40)] + [f"town-{n}" for n in range(6)]
    labels = _labels(groups, {})
    labels.risk_N[:40] = np.nan
    labels.has_pictures_N[:20] = False
    parts = split_by_group(labels, {"train": 0.7, "val": 0.15, "test": 0.15})
    assert all(np.isfinite(labels.risk_N[rows]).any() for rows in parts.values())


def test_a_split_parts_no_group_loses_none_and_is_the_same_every_time():
    rng = np.random.default_rng(0)
    groups = [f"g{k}" for k in rng.integers(0, 40, 500)]
    labels = _labels(groups, {"fog": list(range(0, 500, 7))})
    parts = split_by_group(labels, {"train": 0.6, "val": 0.2, "test": 0.2})
    assert sorted(np.concatenate(list(parts.values()))) == list(range(500))
    held = [{labels.groups[n] for n in rows} for rows in parts.values()]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
    assert abs(len(parts["train"]) - 300) < 40
    again = split_by_group(labels, {"train": 0.6, "val": 0.2, "test": 0.2})
    assert all((parts[part] == again[part]).all() for part in parts)
    other = split_by_group(labels, {"train": 0.6, "val": 0.2, "test": 0.2}, seed=1)
    assert any(len(parts[p]) != len(other[p]) or (parts[p] != other[p]).any() for p in parts)


def test_a_rare_tag_reaches_every_part():
    groups = [f"g{n // 5}" for n in range(100)]
    labels = _labels(groups, {"fog": [0, 50, 95]})
    parts = split_by_group(labels, {"train": 0.6, "val": 0.2, "test": 0.2})
    assert all((labels.values_NK[rows, _column("fog")] == PRESENT).any() for rows in parts.values())


def test_a_group_that_is_larger_than_a_part_is_learnt_from():
    groups = ["giant"] * 40 + [f"g{n // 3}" for n in range(60)]
    labels = _labels(groups, {"fog": list(range(0, 100, 3)), "rain": list(range(40))})
    parts = split_by_group(labels, {"train": 0.7, "val": 0.15, "test": 0.15})
    assert {labels.groups[n] for n in parts["train"]} >= {"giant"}
    assert 10 <= len(parts["test"]) <= 20 and 10 <= len(parts["val"]) <= 20


def test_groups_that_an_earlier_split_dealt_out_keep_their_part():
    labels = _labels([f"g{n // 5}" for n in range(100)], {"fog": [0, 50, 95]})
    fixed = {"g0": "test", "g1": "test", "gone": "val"}
    parts = split_by_group(labels, {"train": 0.6, "val": 0.2, "test": 0.2}, fixed=fixed)
    assert {labels.groups[n] for n in parts["test"]} >= {"g0", "g1"}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(100))


def test_shares_must_be_shares():
    with pytest.raises(ConfigError, match="sum to 1"):
        split_by_group(_labels(["a"], {}), {"train": 0.6, "val": 0.6})


def test_real_logs_are_labelled_without_fault(data_root: Path):
    done = _label(data_root / "nuscenes", data_root / "frames")
    assert len(done.rows) > 746 and not done.faults
    frames = [row for row in done.rows if row.source == "camvid"]
    assert {row.group for row in frames} == {"camvid/0001TP", "camvid/0006R0", "camvid/0016E5"}
    assert all(row.values()["dusk"] == (row.group == "camvid/0001TP") for row in frames)
    scenes = [row for row in done.rows if row.source.startswith("nuscenes")]
    assert len({row.group for row in scenes}) > 1 and any("pedestrian" in row.values() for row in scenes)


def test_labels_of_a_user_are_read_from_a_spreadsheet_and_contradictions_are_named(tmp_path: Path):
    table = tmp_path / "own.csv"
    table.write_bytes("scene_id,tag,value\na,deer,1\n".encode("utf-8-sig"))
    assert read_given(table, ["deer"]) == {"a": {"deer": True}}
    table.write_text("scene_id,tag,value\na,deer,1\na,deer,0\n")
    with pytest.raises(DataError, match="line 3: deer of a is '0'"):
        read_given(table, ["deer"])
    table.write_text("scene_id,tag,value\n")
    with pytest.raises(DataError, match="found none"):
        read_given(table, ["deer"])


def test_a_users_own_rare_tag_reaches_every_part_of_a_split():
    labels = _labels([f"drive-{n}" for n in range(12)], {})
    own_NL = np.zeros((12, 1), np.int8)
    own_NL[[1, 4, 7]] = PRESENT
    parts = split_by_group(labels, {"train": 0.7, "val": 0.15, "test": 0.15}, own_NL=own_NL)
    assert all((own_NL[rows] == PRESENT).sum() == 1 for rows in parts.values())
