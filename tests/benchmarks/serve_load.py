"""Ten minutes of 64 clients while rows arrive and replicas are killed: every answer is right, or asks to come again.

Each answer names the version of the table that it is of, and is compared with that version in this process. Prints one
JSON object as its last line: `wrong` and `errors_5xx_not_503` are to be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil

from serve.encoder_model import EncoderModel
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.snapshot import Snapshot
from tests.benchmarks.serving import TAGS, TEXTS, Served, add_scenes, make_store, one_thread, print_figures, served

_TOP = 10
# Texts encoded in batches of other sizes differ in the last digits.
_TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kill-every-s", type=float, default=60)
    parser.add_argument("--rows-every-s", type=float, default=5)
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.kill_every_s, arguments.scenes = 40, 12, 2000
    with tempfile.TemporaryDirectory() as name:
        location = make_store(Path(name) / "store", arguments.scenes)
        with served(Path(name), location.uri, tokens=16) as server:
            load = _Load(server, location, arguments)
            asyncio.run(load.run())
            print_figures(load.figures())


class _Load:
    def __init__(self, server: Served, location: StoreLocation, arguments: argparse.Namespace) -> None:
        one_thread()
        self._server, self._location, self._arguments = server, location, arguments
        self._end_s = time.monotonic() + arguments.seconds
        self._statuses: Counter[str] = Counter()
        self._seconds: list[float] = []
        self._answers: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._killed: Counter[str] = Counter()
        self._rows = arguments.scenes
        self._versions: set[int] = set()
        self._problems: list[str] = []

    async def run(self) -> None:
        clients = [self._client(n) for n in range(self._arguments.clients)]
        await asyncio.gather(*clients, self._kill(), self._append())

    async def _client(self, n: int) -> None:
        rng = random.Random(n)
        headers = {"Authorization": f"Bearer {self._server.tokens[n % len(self._server.tokens)]}"}
        async with httpx.AsyncClient(base_url=self._server.url, headers=headers, timeout=120) as session:
            while time.monotonic() < self._end_s:
                body: dict[str, Any] = {
                    "top": _TOP,
                    "where": {"tags": [rng.choice(TAGS)]} if rng.random() < 0.5 else {},
                }
                if rng.random() < 0.7:
                    text = f"{rng.choice(TEXTS)} {rng.randrange(100)}"
                    body["query"] = {"kind": "text", "text": text}
                started_s = time.monotonic()
                try:
                    answer = await session.post("/v1/search", json=body)
                except httpx.HTTPError as error:
                    self._statuses[type(error).__name__] += 1
                    continue
                self._seconds.append(time.monotonic() - started_s)
                self._statuses[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    self._answers.append((body, _short(answer.json())))
                elif answer.status_code in (429, 503):
                    await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
                else:
                    self._problems.append(answer.text[:200])

    async def _kill(self) -> None:
        """One replica each time, in turn of the deployments, as the kernel's out-of-memory killer does it."""
        names = ("ingress", "encoder")
        turn = 0
        while time.monotonic() + self._arguments.kill_every_s < self._end_s:
            await asyncio.sleep(self._arguments.kill_every_s)
            name = names[turn % len(names)]
            found = [p for p in _replicas(self._server.pid) if name in p[1]]
            if found:
                os.kill(random.choice(found)[0], signal.SIGKILL)
                self._killed[name] += 1
            turn += 1

    async def _append(self) -> None:
        while time.monotonic() + self._arguments.rows_every_s < self._end_s:
            await asyncio.sleep(self._arguments.rows_every_s)
            await asyncio.to_thread(add_scenes, self._location, 20, self._rows)
            self._rows += 20

    def figures(self) -> dict[str, object]:
        wrong = self._wrong()
        statuses = dict(self._statuses)
        answered = np.array(self._seconds) * 1000
        return {
            "requests": sum(statuses.values()),
            "errors_5xx_not_503": sum(n for status, n in statuses.items() if status[0] == "5" and status != "503"),
            "wrong": wrong,
            "compared": len(self._answers),
            "statuses": statuses,
            "killed": dict(self._killed),
            "versions_seen": len(self._versions),
            "rows_added": self._rows - self._arguments.scenes,
            "p50_ms": round(float(np.percentile(answered, 50)), 1),
            "p99_ms": round(float(np.percentile(answered, 99)), 1),
            "problems": self._problems[:3],
        }

    def _wrong(self) -> int:
        """Answers that are not those of the same version in this process."""
        encoder = EncoderModel("packaged")
        vectors: dict[str, np.ndarray] = {}
        snapshots: dict[int, Snapshot] = {}
        known: dict[str, list[tuple[str, float]]] = {}
        wrong = 0
        for body, answer in self._answers:
            version = answer["version"]
            self._versions.add(version)
            snapshot = snapshots.setdefault(version, Snapshot(self._location, version))
            text = body.get("query", {}).get("text")
            if text is not None and text not in vectors:
                vectors[text] = encoder.texts([text])[0]
            where = SceneFilter(tags=tuple(body["where"].get("tags", ())), model_id="m1")
            key = f"{version} {text} {where.tags}"
            if key not in known:
                ranking = snapshot.rank(vectors.get(text), where, {"similarity": 1.0}, 1000)
                known[key] = [(scene.scene_id, scene.score) for scene in ranking.part(0, 2 * _TOP)]
            wrong += not _agrees(answer["found"], known[key])
        return wrong


def _agrees(found: list[tuple[str, float]], right: list[tuple[str, float]]) -> bool:
    """The same scenes with the same scores; scenes whose scores are equal to the last digits may change places."""
    scores = dict(right)
    return len(found) == min(_TOP, len(right)) and all(
        scene in scores and abs(score - scores[scene]) < _TOLERANCE and abs(score - expected) < _TOLERANCE
        for (scene, score), (_, expected) in zip(found, right, strict=False)
    )


def _short(answer: dict[str, Any]) -> dict[str, Any]:
    found = [(hit["scene"]["scene_id"], hit["score"]["total"]) for hit in answer["hits"]]
    return {"version": answer["version"], "found": found}


def _replicas(pid: int) -> list[tuple[int, str]]:
    """Replicas of the server that this measurement started, and of no other."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "ServeReplica:nightminer" in line or "SERVE_REPLICA" in line:
            found.append((child.pid, line))
    return found


if __name__ == "__main__":
    main()
