"""What a store and its driver bear, far beyond what one machine mines. Prints one JSON object.

commit_*: rows with 100 kB of pictures each, written by worker processes as uncommitted fragments and committed by this
    one, against one process that appends the same rows itself; on disk, and with --s3 on moto's server.
    commit_rows_per_s is by the wall clock with the workers of this machine. The driver alone, which is all that a
    larger cluster has one of, reaches driver_rows_per_s (fragments committed per second of its own time).
antijoin_*: as many scenes that are new looked up among those that a store holds, reading the store's ids included;
    antijoin_1m_vs_10m_s for a million among ten.
list_*: a plan of so many logs (a table of pictures, each a log), none of them mined; list_1m_logs_gib for a million.
Memory is the peak of a process that does nothing else, less what it held after its imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from system.pipelines.committing import SceneCommitter
from system.pipelines.config import MineConfig
from system.pipelines.plan import plan_mining
from system.pipelines.quarantine import QuarantineWriter
from system.pipelines.result import MiningResult
from system.records import scene_id
from system.store.commits import append_rows, write_uncommitted
from system.store.ids import IdSet, committed_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.schema import PICTURES, SCENES, pictures_schema, scenes_schema
from system.store.tables import ModelRow, open_for_writing
from tests.s3 import s3_bucket

MODEL = ModelRow("m1", "packaged", "tower-1", None, 384, ("night",), "{}")
_PICTURE_BYTES = 100_000
_ROWS_AT_ONCE = 500_000


def main() -> None:
    print(json.dumps(measure(parser().parse_args())))


def parser() -> argparse.ArgumentParser:
    """Options of a whole measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000, help="scenes that are committed")
    parser.add_argument("--batch", type=int, default=8, help="scenes that a worker writes at once")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--s3", action="store_true", help="commit to an S3 server of this machine too")
    parser.add_argument("--held", type=int, default=10_000_000, help="scenes that the store holds")
    parser.add_argument("--new", type=int, default=1_000_000, help="scenes that are looked up")
    parser.add_argument("--logs", type=int, default=1_000_000, help="logs that are listed")
    return parser


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        figures |= commit_rates(f"{folder}/store", arguments, "")
        if arguments.s3:
            with s3_bucket() as bucket:
                figures |= commit_rates(f"{bucket}/store", arguments, "_s3")
        figures |= antijoin(f"{folder}/held", arguments.held, arguments.new)
        figures |= listing(Path(folder) / "logs", arguments.logs)
    return figures


def commit_rates(uri: str, arguments: argparse.Namespace, suffix: str) -> dict[str, Any]:
    """Ours and one process that appends, in turns of halves so that a slow minute meets both."""
    seconds = {"ours": 0.0, "alone": 0.0, "driver": 0.0}
    half = arguments.rows // 2
    batches = [range(k, min(k + arguments.batch, half)) for k in range(0, half, arguments.batch)]
    for turn in range(2):
        ours, alone = (StoreLocation(f"{uri}-{turn}-{name}") for name in ("ours", "alone"))
        for location in (ours, alone):
            open_for_writing(location, MODEL)
        result = MiningResult("r1", "m1", found=half, remaining=half)
        with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
            # Workers start before the clock does.
            list(pool.map(_imported, range(arguments.workers)))
            with Lease(ours, "r1") as lease:
                quarantine = QuarantineWriter(ours, "m1", "r1")
                committer = SceneCommitter(ours, lease, quarantine, IdSet(), result, lambda *_: None)
                began_s = time.perf_counter()
                for done in as_completed([pool.submit(write_batch, ours, batch) for batch in batches]):
                    committer.add(done.result())
                committer.flush()
                seconds["ours"] += time.perf_counter() - began_s
                seconds["driver"] += result.stages.commit
        began_s = time.perf_counter()
        for batch in batches:
            append_rows(alone, PICTURES, picture_rows(batch))
            append_rows(alone, SCENES, scene_rows(batch))
        seconds["alone"] += time.perf_counter() - began_s
        for location in (ours, alone):
            assert location.dataset(SCENES).count_rows() == location.dataset(PICTURES).count_rows() == half
    rates = {name: 2 * half / value for name, value in seconds.items()}
    return {
        f"rows{suffix}": 2 * half,
        f"commit_rows_per_s{suffix}": round(rates["ours"], 1),
        f"alone_rows_per_s{suffix}": round(rates["alone"], 1),
        f"commit_ratio{suffix}": round(rates["ours"] / rates["alone"], 2),
        f"driver_rows_per_s{suffix}": round(rates["driver"], 1),
        f"driver_ratio{suffix}": round(rates["driver"] / rates["alone"], 2),
    }


def _imported(_: int) -> int:
    return os.getpid()


def write_batch(location: StoreLocation, numbers: range) -> dict[str, Any]:
    """What a worker of mining does at the end: pictures first, then the scenes that name them."""
    pictures = write_uncommitted(location, PICTURES, picture_rows(numbers))
    scenes = scene_rows(numbers)
    return {
        "picture_fragments": pictures,
        "scene_fragments": write_uncommitted(location, SCENES, scenes),
        "scene_ids": scenes["scene_id"].to_pylist(),
        "faults": [],
        "images": len(numbers),
        "store_problem": None,
        **dict.fromkeys(("read_s", "forward_s", "write_s"), 0.0),
    }


def picture_rows(numbers: range) -> pa.Table:
    """One row a scene, of bytes that do not compress, as JPEGs do not."""
    rng = np.random.default_rng(numbers.start)
    rows = [
        {
            "picture_batch": f"b{numbers.start}",
            "scene_id": scene_id("scale", f"log{k // 8}", k, 1),
            "camera": "front",
            "t_ns": k,
            "width": 640,
            "height": 480,
            "jpeg": rng.bytes(_PICTURE_BYTES),
        }
        for k in numbers
    ]
    return pa.Table.from_pylist(rows, schema=pictures_schema())


def scene_rows(numbers: range) -> pa.Table:
    """Scenes with a vector; what ranking fills is left empty."""
    schema, count = scenes_schema(MODEL.embedding_dim), len(numbers)
    vectors = np.random.default_rng(numbers.start).normal(size=(count, MODEL.embedding_dim)).astype(np.float32)
    return _of_ids([scene_id("scale", f"log{k // 8}", k, 1) for k in numbers], schema, vectors)


def _of_ids(ids: list[str] | pa.Array, schema: pa.Schema, vectors: Any = None) -> pa.Table:
    count = len(ids)
    given: dict[str, Any] = {
        "scene_id": pa.array(ids, pa.string()),
        "t_start_ns": pa.array(np.arange(count)),
        "t_end_ns": pa.array(np.arange(count) + 1),
    }
    if vectors is not None:
        flat = pa.array(vectors.reshape(-1), pa.float32())
        given["embedding"] = pa.FixedSizeListArray.from_arrays(flat, MODEL.embedding_dim)
    texts = {
        "model_id": "m1",
        "run_id": "r1",
        "source": "scale",
        "log_id": "log",
        "log_uri": "s3://b/l",
        "reader": "plain",
    }
    columns = []
    for field in schema:
        if field.name in texts:
            columns.append(
                pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [texts[field.name]]).cast(field.type)
            )
        else:
            columns.append(given.get(field.name, pa.nulls(count, field.type)))
    return pa.Table.from_arrays(columns, schema=schema)


def antijoin(uri: str, held: int, new: int) -> dict[str, Any]:
    """Of a store whose rows are ids and little else: nothing else is read."""
    location = StoreLocation(uri)
    open_for_writing(location, MODEL)
    for start in range(0, held, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, held - start)
        append_rows(location, SCENES, _of_ids(random_ids(start, count), scenes_schema(MODEL.embedding_dim)))
    found = _in_a_process(_look_up, location, new)
    return {
        "antijoin_held": held,
        "antijoin_new": new,
        f"antijoin_{short(new)}_vs_{short(held)}_s": round(found["seconds"], 2),
        "antijoin_read_s": round(found["read_s"], 2),
        "antijoin_driver_gib": round(found["gib"], 3),
    }


def short(count: int) -> str:
    """As in a key: 1m for 1,000,000."""
    for unit, letter in ((10**6, "m"), (10**3, "k")):
        if count and count % unit == 0:
            return f"{count // unit}{letter}"
    return str(count)


def random_ids(seed: int, count: int) -> pa.Array:
    """Scene ids as text."""
    text = np.frombuffer(np.random.default_rng(seed).bytes(16 * count).hex().encode(), np.uint8)
    places = np.arange(0, 32 * (count + 1), 32, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(places), pa.py_buffer(text))


def _look_up(location: StoreLocation, new: int) -> dict[str, float]:
    ids = random_ids(10**9, new).to_pylist()
    before = _held_gib()
    began_s = time.perf_counter()
    known = committed_ids(location, "m1")
    read_s = time.perf_counter() - began_s
    missing = [text for text in ids if text not in known]
    seconds = time.perf_counter() - began_s
    assert len(missing) == new and ids[0] not in known
    for batch in location.dataset(SCENES).scanner(columns=["scene_id"], limit=1000).to_batches():
        assert all(text in known for text in batch.column(0).to_pylist())
    return {"seconds": seconds, "read_s": read_s, "gib": _peak_gib() - before}


def listing(folder: Path, logs: int) -> dict[str, Any]:
    """A table for each 100,000 pictures, as a fleet hands them over by the day."""
    per_table = 100_000
    for start in range(0, logs, per_table):
        day = folder / f"day{start // per_table:03d}"
        day.mkdir(parents=True)
        rows = (
            f"images/drive-{k:09d}/front.jpg,fleet,{k // 10},1280,720\n"
            for k in range(start, min(start + per_table, logs))
        )
        (day / "frames.csv").write_text("path,dataset,sequence,width,height\n" + "".join(rows), "utf-8")
    found = _in_a_process(_plan, str(folder))
    assert found["logs"] == logs
    return {
        "list_logs": logs,
        "list_s": round(found["seconds"], 1),
        f"list_{short(logs)}_logs_gib": round(found["gib"], 3),
    }


def _plan(folder: str) -> dict[str, float]:
    before, began_s = _held_gib(), time.perf_counter()
    plan = plan_mining(MineConfig(logs=(folder,), store="unused"), IdSet(), IdSet())
    return {"logs": plan.todo, "seconds": time.perf_counter() - began_s, "gib": _peak_gib() - before}


def _in_a_process(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _peak_gib() -> float:
    """Of this process alone: getrusage goes on from what the parent held when it started this one."""
    return _status_gib("VmHWM")


def _held_gib() -> float:
    return _status_gib("VmRSS")


def _status_gib(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024**2


if __name__ == "__main__":
    main()
