"""A server as its user starts it, for measurements: a store, tokens, `jobs/serve_store.py` in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from serve.auth import SCOPES, add_token
from system.backbones.vit import build_vit
from system.infrared.detector import Detector
from system.infrared.detector_config import DetectorConfig
from system.records import scene_id
from system.store.commits import append_rows
from system.store.location import StoreLocation
from system.store.maintain import build_indices, tag_version
from system.store.runs import RunRecord, write_run
from system.store.schema import SCENES, scenes_schema
from system.store.tables import ModelRow, open_for_writing
from tests.benchmarks.jobs_under_test import ROOT

DIM = 384
TAGS = ("night", "rain", "pedestrian", "cyclist")
TEXTS = ("bus in fog", "a child between parked cars", "truck on a wet road", "cyclist at night", "empty car park")
START_WITHIN_S = 400


@dataclass(frozen=True)
class Served:
    """A running server. pid: of its launcher; start_s: from the command to the first answer."""

    url: str
    tokens: tuple[str, ...]
    pid: int
    start_s: float


def make_store(folder: Path, scenes: int) -> StoreLocation:
    """Made-up scenes around a few hundred centres, in the space of the packaged tower; no pictures."""
    location = StoreLocation.parse(str(folder))
    open_for_writing(location, ModelRow("m1", "packaged", "made up", None, DIM, TAGS, "{}"))
    add_scenes(location, scenes)
    version = build_indices(location)
    tag_version(location, "run-r1")
    write_run(location, RunRecord("r1", "m1", "finished", 1, 2, version, {"figures": {}}))
    return location


def add_scenes(location: StoreLocation, count: int, first: int = 0) -> None:
    centres = np.random.default_rng(0).normal(size=(256, DIM))
    rng = np.random.default_rng(first + 1)
    rows = []
    for k in range(first, first + count):
        vector = centres[k % 256] + 0.7 * rng.normal(size=DIM)
        rows.append(
            {
                "scene_id": scene_id("bench", f"log{k // 50}", k, 4), "model_id": "m1", "run_id": "r1",
                "source": "bench", "log_id": f"log{k // 50}", "log_uri": "none", "reader": "plain",
                "t_start_ns": k * 10**9, "t_end_ns": (k + 4) * 10**9, "cameras": ["front"], "num_pictures": 1,
                "num_bad_pictures": 0, "flags": [], "description": "", "truth_tags": [],
                "embedding": (vector / np.linalg.norm(vector)).astype(np.float32),
                "tag_probabilities": rng.random(len(TAGS)).astype(np.float32), "tags": [TAGS[k % len(TAGS)]],
                "risk": float(rng.random()), "risk_source": "tracks", "hardness": float(rng.random()),
                "picture_batch": "b",
            }
        )  # fmt: skip
    append_rows(location, SCENES, pa.Table.from_pylist(rows, schema=scenes_schema(DIM)))


def make_detector(folder: Path, architecture: str = "vit_small_patch14_dinov2", seed: int = 0) -> Path:
    """An untrained one: its speed is a trained one's."""
    folder.mkdir(parents=True, exist_ok=True)
    is_small = architecture == "test_vit"
    config = DetectorConfig(
        classes=("person", "car"),
        height=64 if is_small else 252,
        width=96 if is_small else 336,
        blocks=(1, 3) if is_small else (3, 6, 9),
        channels=32 if is_small else 64,
        convs=1 if is_small else 2,
        backbone=f"timm:{architecture}",
    )
    Detector.untrained(config, build_vit(architecture), seed).save(folder)
    return folder


@contextmanager
def served(folder: Path, store: str, *options: str, tokens: int = 1) -> Iterator[Served]:
    """Start, wait for the first answer, and at the end stop gracefully."""
    made = tuple(add_token(folder / "tokens.json", f"client{n}", SCOPES, None) for n in range(tokens))
    port = _free_port()
    command = [sys.executable, str(ROOT / "jobs" / "serve_store.py"), "--store", store, "--port", str(port)]
    command += ["--token-file", str(folder / "tokens.json"), *options]
    started_s = time.perf_counter()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=dict(os.environ))
        try:
            while not re.search(rb"serving .* after", log.read_bytes()):
                if process.poll() is not None or time.perf_counter() - started_s > START_WITHIN_S:
                    raise SystemExit(f"the server did not come up:\n{log.read_text()[-3000:]}")
                time.sleep(0.2)
            yield Served(f"http://127.0.0.1:{port}", made, process.pid, time.perf_counter() - started_s)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def print_figures(figures: dict[str, object]) -> None:
    """As a job does: one JSON object, last."""
    print(json.dumps(figures))


def one_thread() -> None:
    """What a replica of a model computes with."""
    torch.set_num_threads(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
