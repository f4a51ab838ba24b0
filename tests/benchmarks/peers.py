"""The same pictures with the same model into a searchable store: ours, and what people would use instead.

    ours         jobs/mine_fleet.py: scenes, tags, risk, small pictures, ranking and a report beside the vectors
    dataloader   PyTorch's DataLoader and a loop, vectors into LanceDB
    daft         Daft: download, decoding, resizing and a class over batches, vectors into Lance
    curator      NeMo Curator: stages of a pipeline on its Ray Data executor, vectors into LanceDB

Each is a process of its own with the CPUs of `--cpus`, from its start to a store that answers a query; in turns, and
the medians count. `pip install nightminer[peers]` installs the others; one that is missing is left out and said so.
FiftyOne is not among them: its database is downloaded at its first start, and not from a package registry. Prints one
JSON object as its last line. `ratio_to_best_peer` is our pictures a second over those of the best of the others,
`steady_ratio` the same without what each takes for an eighth of the pictures, most of which is its start.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from system.backbones.loading import load_tower
from system.backbones.runtime import choose_runtime
from tests.benchmarks.jobs_under_test import ROOT
from tests.benchmarks.peer_pictures import BATCH, decoded
from tests.benchmarks.real_corpus import real_pictures

_IMAGES = "images"
_MODULES = {"daft": "daft", "curator": "nemo_curator"}
_SUFFIXES = (".jpg", ".jpeg", ".png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pictures", type=Path, help="folder of pictures; the driving pictures of $NIGHTMINER_DATA, if not given"
    )
    parser.add_argument("--count", type=int, default=800, help="of them, as often as it takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=1, help="processes of DataLoader that decode")
    parser.add_argument("--peers", default="ours,dataloader,daft,curator")
    parser.add_argument("--run", choices=sorted(_PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        found = _PEERS[arguments.run](arguments.pictures, arguments.store, arguments)
        print(json.dumps(found if isinstance(found, dict) else {"pictures": found}))
        return
    names = arguments.peers.split(",")
    missing = [name for name in names if name in _MODULES and importlib.util.find_spec(_MODULES[name]) is None]
    names = [name for name in names if name not in missing]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    short: dict[str, list[float]] = {name: [] for name in names}
    stages: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        whole, eighth = root / "whole", root / "eighth"
        found = real_pictures()
        if arguments.pictures:
            found = sorted(path for path in arguments.pictures.rglob("*") if path.suffix.lower() in _SUFFIXES)
        _gather(found, whole, arguments.count)
        _gather(found, eighth, arguments.count // 8)
        for turn in range(arguments.rounds):
            for name in names:
                took_s, few = _timed(name, eighth, root / f"{name}-{turn}-short", arguments)
                short[name].append(took_s)
                took_s, all_ = _timed(name, whole, root / f"{name}-{turn}", arguments)
                seconds[name].append(took_s)
                if "stages" in all_:
                    stages.append({stage: s - few["stages"][stage] for stage, s in all_["stages"].items()})
    told: dict[str, Any] = {"pictures": arguments.count, "cpus": arguments.cpus, "not_installed": missing}
    rates, steady = {}, {}
    for name in names:
        took, start = statistics.median(seconds[name]), statistics.median(short[name])
        rates[name] = arguments.count / took
        steady[name] = (arguments.count - arguments.count // 8) / (took - start)
        told[name] = {
            "pictures_per_s": round(rates[name], 2),
            "steady_pictures_per_s": round(steady[name], 2),
            "seconds": [round(s, 1) for s in seconds[name]],
        }
    if stages:  # seconds of the job's own for the seven eighths; `forward` lies within `stream`
        told["ours"]["steady_stages_s"] = {
            stage: round(statistics.median(each[stage] for each in stages), 2) for stage in stages[0]
        }
    if "ours" in names and (others := [name for name in names if name != "ours"]):
        told["best_peer"] = max(others, key=lambda name: rates[name])
        told["ratio_to_best_peer"] = round(rates["ours"] / max(rates[name] for name in others), 3)
        told["steady_ratio"] = round(steady["ours"] / max(steady[name] for name in others), 3)
    print(json.dumps(told))


def _gather(found: list[Path], folder: Path, count: int) -> None:
    """Real pictures evenly over all, again from the first where there are fewer, and a table by which each is a log."""
    if not found:
        raise SystemExit("expected pictures, found none")
    (folder / _IMAGES).mkdir(parents=True)
    names = []
    for k in range(count):
        path = found[k * len(found) // count if count <= len(found) else k % len(found)]
        names.append(f"{_IMAGES}/{k:06d}{path.suffix.lower()}")
        shutil.copyfile(path, folder / names[-1])
    (folder / "frames.csv").write_text("path\n" + "".join(f"{name}\n" for name in names), "utf-8")


def _timed(name: str, pictures: Path, store: Path, arguments: argparse.Namespace) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole process, and what it told last."""
    command = [sys.executable, "-m", "tests.benchmarks.peers", "--run", name, "--pictures", str(pictures)]
    command += ["--store", str(store), "--cpus", str(arguments.cpus), "--workers", str(arguments.workers)]
    began_s = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - began_s
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"{name} failed")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    count, expected = told["pictures"], len(list((pictures / _IMAGES).iterdir()))
    if count != expected:
        raise SystemExit(f"{name}: {count} of {expected} pictures are in its store")
    return took_s, told


def _ours(pictures: Path, store: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from tests.benchmarks.jobs_under_test import run_job

    mined = run_job("mine_fleet", "--logs", str(pictures), "--store", str(store))
    return {"pictures": mined["images"], "stages": mined["stages"]}


class Pictures(torch.utils.data.Dataset[tuple[str, torch.Tensor]]):
    """Decoded and resized by PIL."""

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        self._paths, self._size = sorted((folder / _IMAGES).iterdir()), size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, k: int) -> tuple[str, torch.Tensor]:
        return str(self._paths[k]), torch.from_numpy(decoded(self._paths[k], self._size))


def _dataloader(pictures: Path, store: Path, arguments: argparse.Namespace) -> int:
    import lancedb

    threads = max(1, arguments.cpus - arguments.workers)
    torch.set_num_threads(threads)
    tower = load_tower("packaged", choose_runtime(threads, False))
    loader = torch.utils.data.DataLoader(
        Pictures(pictures, tower.input_size), batch_size=BATCH, num_workers=arguments.workers
    )

    def rows() -> Iterator[list[dict[str, Any]]]:
        for paths, images in loader:
            vectors = tower.encode_images(images).pooled_NE.numpy()
            yield [{"path": path, "vector": vector} for path, vector in zip(paths, vectors, strict=True)]

    table = None
    for batch in rows():
        if table is None:
            table = lancedb.connect(store).create_table("pictures", batch)
        else:
            table.add(batch)
    assert table is not None and table.search(np.ones(tower.embedding_dim)).limit(1).to_list()
    return int(table.count_rows())


def _daft(pictures: Path, store: Path, arguments: argparse.Namespace) -> int:
    import daft
    import lance
    from daft import DataType, Series
    from daft.functions import decode_image, download, resize

    threads = max(1, arguments.cpus - arguments.workers)
    info = load_tower("packaged", choose_runtime(threads, False))
    height, width = info.input_size

    @daft.cls(max_concurrency=1, use_process=False)
    class Encoder:
        def __init__(self) -> None:
            torch.set_num_threads(threads)
            self._tower = load_tower("packaged", choose_runtime(threads, False))

        @daft.method.batch(return_dtype=DataType.embedding(DataType.float32(), info.embedding_dim), batch_size=BATCH)
        def __call__(self, images: Series) -> np.ndarray:
            stacked = np.stack([np.asarray(image) for image in images.to_pylist()])
            return self._tower.encode_images(torch.from_numpy(stacked)).pooled_NE.numpy()

    frame = daft.from_glob_path(f"{pictures}/{_IMAGES}/*")
    image = resize(decode_image(download(frame["path"]), mode="RGB"), width, height)
    frame = frame.select("path", Encoder()(image).alias("vector"))
    frame.write_lance(str(store))
    found = lance.dataset(str(store))
    query = {"column": "vector", "q": np.ones(info.embedding_dim, np.float32), "k": 1}
    assert found.to_table(nearest=query).num_rows == 1
    return int(found.count_rows())


def _curator(pictures: Path, store: Path, arguments: argparse.Namespace) -> int:
    from tests.benchmarks.peer_curator import curate

    return curate(sorted((pictures / _IMAGES).iterdir()), store, max(1, arguments.cpus - arguments.workers))


_PEERS: dict[str, Callable[[Path, Path, argparse.Namespace], int | dict[str, Any]]] = {
    "ours": _ours,
    "dataloader": _dataloader,
    "daft": _daft,
    "curator": _curator,
}

if __name__ == "__main__":
    main()
