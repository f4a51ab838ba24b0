"""A run on folders that is killed or stopped leaves nothing to be mixed with; the next one starts anew. Without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from system.errors import StoppedError
from system.infrared.detections import Detections
from system.pairs.pixels import InfraredMapping
from system.pipelines import predict_infrared as predicting
from system.pipelines.config import PoolConfig
from system.pipelines.infrared_reading import Shot
from system.pipelines.infrared_stream import PictureResult
from system.pipelines.predict_infrared import Looked, PredictConfig, predict_infrared
from system.report.console import ConsoleProgress

PICTURES = 6


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose stream dies, as by a kill, before a picture of a number."""
    folder = tmp_path / "night"
    folder.mkdir()
    for n in range(PICTURES):
        (folder / f"{n}.png").write_bytes(b"never read")
    config = SimpleNamespace(classes=("person",), mapping=InfraredMapping(), height=20, width=30)
    monkeypatch.setattr(predicting, "read_detector", lambda _: (SimpleNamespace(config=config), None))
    monkeypatch.setattr(predicting, "detector_id", lambda _: "d")
    monkeypatch.setattr(predicting, "connect_to_ray", lambda: None)
    monkeypatch.setattr(predicting, "size_cluster_pool", lambda _: SimpleNamespace(actors=1))

    clock = SimpleNamespace(now_s=0.0)
    now = SimpleNamespace(monotonic=lambda: clock.now_s, time=lambda: clock.now_s)
    monkeypatch.setattr(predicting, "time", now)

    def of(killed_at: int | None = None, stopped_at: int = 99, score: float = 0.9) -> dict[str, Any]:
        seen = 0

        def stream(parts: Any, *_: Any) -> Iterator[PictureResult]:
            nonlocal seen
            for uri in (uri for part in parts for uri in part.pictures):
                if seen == killed_at:
                    raise KeyboardInterrupt
                seen += 1
                found = Detections.of([[1, 2, 5, 9]], [score], [0], (20, 30))
                # Batches of two, which end after 1, 2 and 3 s; their answers come together after them.
                clock.now_s, ended_s = 4.0, 1.0 + (seen - 1) // 2
                yield PictureResult(Shot(uri), 1, found, model_s=0.3, ended_s=ended_s)

        monkeypatch.setattr(predicting, "stream_detections", stream)
        looked = Looked(images=(str(folder),))
        return predict_infrared(
            looked, "m", tmp_path / "boxes", PredictConfig(), PoolConfig(), ConsoleProgress(), lambda: seen > stopped_at
        )

    return of


def test_after_a_kill_the_same_command_starts_anew_and_nothing_is_mixed(run: Any, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run(killed_at=4, score=0.5)
    assert not (tmp_path / "boxes").exists() and (tmp_path / ".boxes.unfinished").is_dir()
    assert run()["images"] == PICTURES and not (tmp_path / ".boxes.unfinished").exists()
    rows = pq.read_table(tmp_path / "boxes" / "detections.parquet").to_pylist()
    assert sorted(Path(row["uri"]).name for row in rows) == [f"{n}.png" for n in range(PICTURES)]
    assert {round(row["scores"][0], 2) for row in rows} == {0.9}, "none of the killed run's"
    coco = json.loads((tmp_path / "boxes" / "coco.json").read_text())
    assert len(coco["images"]) == len(coco["annotations"]) == PICTURES
    assert {str(Path(coco["info"]["pictures"]) / image["file_name"]) for image in coco["images"]} == {
        row["uri"] for row in rows
    }
    assert not any(Path(image["file_name"]).is_absolute() for image in coco["images"])


def test_a_run_that_is_stopped_says_so_with_an_exit_code_and_leaves_nothing(run: Any, tmp_path: Path):
    with pytest.raises(StoppedError, match=r"stopped after 2 of 6.*starts anew") as raised:
        run(stopped_at=2)
    assert raised.value.exit_code == 143
    assert not (tmp_path / "boxes").exists() and not (tmp_path / ".boxes.unfinished").exists()


@pytest.mark.parametrize(("actors", "efficiency"), [(1, 0.4), (2, 0.2)])
def test_efficiency_leaves_the_first_batch_out_and_is_of_all_detectors_at_once(
    run: Any, monkeypatch: pytest.MonkeyPatch, actors: int, efficiency: float
):
    monkeypatch.setattr(predicting, "size_cluster_pool", lambda _: SimpleNamespace(actors=actors))
    # Four pictures of 0.3 s of a detector in the 3 s after the first batch.
    done = run()
    assert (done["efficiency"], done["first_result_s"]) == (efficiency, 1)
