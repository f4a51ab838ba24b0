"""Claims about what a training takes its scenes from, and what it refuses before anything is computed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from system.errors import ConfigError, DataError
from system.labels.table import Labels
from system.miner.miner_config import OwnHead
from system.miner.taxonomy import load_taxonomy
from system.pipelines import resources
from system.pipelines.features import CachedLogs
from system.store.ids import IdSet
from system.training import examples as examples_module
from system.training.config import TrainConfig
from system.training.examples import Examples, SourceConfig, gather
from system.training.finetune import UpgradeConfig, _refuse_untaught, _untrained
from system.training.run import Recipe, _claim
from tests.fake_tower import FakeTower
from tests.unit.test_training import untrained

TAXONOMY = load_taxonomy()
TAGS = len(TAXONOMY.tags)
IDS = tuple(f"{k:032x}" for k in range(4))


class Notes:
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def phase(self, text: str) -> None:
        pass


def labels(values_NK: np.ndarray | None = None) -> Labels:
    """Two scenes of log a, two of log b; all have pictures."""
    values = np.full((4, TAGS), -1, np.int8) if values_NK is None else values_NK
    logs = ("a", "a", "b", "b")
    return Labels(
        scene_ids=IDS,
        log_ids=logs,
        sources=("plain",) * 4,
        groups=logs,
        descriptions=("",) * 4,
        values_NK=values,
        risk_N=np.full(4, np.nan, np.float32),
        has_pictures_N=np.ones(4, bool),
        future_NT2=np.full((4, 6, 2), np.nan, np.float32),
    )


def given(values_NK: np.ndarray | None = None, own_NL: np.ndarray | None = None) -> Examples:
    own = np.zeros((4, 0), np.int8) if own_NL is None else own_NL
    return Examples(labels(values_NK), own, None, ())  # type: ignore[arg-type]


def test_a_table_of_labels_teaches_no_scene_of_logs_that_were_not_named(monkeypatch):
    monkeypatch.setattr(examples_module, "read_labels", lambda *_: labels())
    monkeypatch.setattr(examples_module, "describe_tower", lambda _: SimpleNamespace(tower_id="fake-1"))
    held = SimpleNamespace(scenes=lambda: SimpleNamespace(where=dict.fromkeys(IDS)))
    monkeypatch.setattr(examples_module, "FeatureCache", lambda *_: held)
    monkeypatch.setattr(examples_module, "cache_features", lambda *_: CachedLogs(scene_ids=IdSet(IDS[:2])))
    notes = Notes()
    found = gather(SourceConfig(logs=("a",), labels="all.parquet"), TAXONOMY, notes)  # type: ignore[arg-type]
    assert found.labels.scene_ids == IDS[:2]
    assert notes.told == ["2 of 4 labelled scenes are of other logs and are left out"]


@pytest.mark.parametrize(("column", "code"), [((1, 1, -1, 1), "no_negative"), ((0, 0, -1, 0), "no_positive")])
def test_an_own_head_needs_scenes_that_show_its_tag_and_scenes_that_do_not(column, code):
    head = OwnHead(name="animals", tags=("deer",))
    with pytest.raises(DataError, match="deer") as refused:
        _refuse_untaught("animals", head, TAXONOMY, given(own_NL=np.array(column, np.int8)[:, None]), ())
    assert refused.value.code == code
    fine = given(own_NL=np.array([[1], [0], [-1], [0]], np.int8))
    assert _refuse_untaught("animals", head, TAXONOMY, fine, ()) == {"deer": 1}


def test_tags_that_every_known_scene_shows_are_left_as_they_are():
    values = np.full((4, TAGS), -1, np.int8)
    night, dusk = TAXONOMY.names.index("night"), TAXONOMY.names.index("dusk")
    values[:, night], values[:, dusk] = (1, 0, 0, 1), (1, 1, -1, 1)
    positives = _refuse_untaught("tags", None, TAXONOMY, given(values), ())
    assert positives == {"night": 2}
    notes = Notes()
    untaught = _untrained(UpgradeConfig(base="x", head="tags"), TAXONOMY, positives, notes)  # type: ignore[arg-type]
    assert set(untaught) == {*TAXONOMY.names} - {"night"} and "dusk" in notes.told[0]


def test_a_training_goes_on_from_no_other_base_than_its_own(tmp_path: Path):
    model, examples = untrained(), given()
    model.save(tmp_path / "base")
    recipe = Recipe("fake", TAXONOMY, TrainConfig(), base=str(tmp_path / "base"), head="tags")
    for _ in range(2):
        _claim(tmp_path / "run", recipe, FakeTower().tower_id, examples, examples)
    model.stream.mean_in.bias.data += 1
    model.save(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"other settings \(base\)"):
        _claim(tmp_path / "run", recipe, FakeTower().tower_id, examples, examples)


@pytest.mark.parametrize(("workers", "gpu", "words"), [(3, False, "3 CPUs, it has 2"), (1, True, "1 GPUs, it has 0")])
def test_workers_that_would_wait_for_ever_are_refused_here_and_told_of_on_a_cluster(monkeypatch, workers, gpu, words):
    monkeypatch.setattr(resources.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    notes = Notes()
    with pytest.raises(ConfigError, match=words):
        resources.check_workers(workers, 1, gpu, notes.note)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    resources.check_workers(workers, 1, gpu, notes.note)
    resources.check_workers(2, 1, False, notes.note)
    assert len(notes.told) == 1 and words in notes.told[0] and "wait" in notes.told[0]
