"""Ten minutes of 64 clients while rows arrive and replicas are killed: every answer is right, or asks to come again.

They ask by words, by pictures and by neither, with and without a tag, and go on to second pages by their cursors. Each
answer names the version of the table that it is of, and is compared with that version in this process, where the same
vector index answers. Prints one JSON object as its last line, in which `wrong`, `errors_5xx_not_503`,
`errors_4xx_not_429` and `broken`, the connections that ended without an answer twice, are to be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
import lance
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from serve.encoder_model import EncoderModel
from system.logs.decoding import PictureLimits, decode_picture
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.snapshot import Snapshot
from system.store.vector_index import VectorIndexConfig, refresh_vector_index
from tests.benchmarks.serving import TAGS, TEXTS, Served, add_scenes, make_store, one_thread, print_figures, served

_TOP = 10
# Texts encoded in batches of other sizes differ in the last digits.
_TOLERANCE = 1e-4
_PICTURES = 16
# Of 100 requests; the others ask for the hardest scenes.
_BY_WORDS, _BY_PICTURE, _SECOND_PAGES = 60, 15, 30
# How often a search whose connection broke is sent again, as a client may.
_AGAIN = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kill-every-s", type=float, default=60)
    parser.add_argument("--rows-every-s", type=float, default=5)
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--from-rows", type=int, default=50_000, help="from so many scenes on a vector index answers")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.kill_every_s, arguments.scenes, arguments.from_rows = 40, 12, 2000, 1500
    with tempfile.TemporaryDirectory() as name:
        location = make_store(Path(name) / "store", arguments.scenes)
        index = refresh_vector_index(location, VectorIndexConfig(from_rows=arguments.from_rows))
        with served(Path(name), location.uri, tokens=16) as server:
            load = _Load(server, location, arguments)
            asyncio.run(load.run())
            print_figures(load.figures() | {"vector_index": None if index is None else index.kind})


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
        self._dropped = self._broken = 0
        self._pictures = [_picture(n) for n in range(_PICTURES)]

    async def run(self) -> None:
        clients = [self._client(n) for n in range(self._arguments.clients)]
        await asyncio.gather(*clients, self._kill(), self._append())

    async def _client(self, n: int) -> None:
        rng = random.Random(n)
        headers = {"Authorization": f"Bearer {self._server.tokens[n % len(self._server.tokens)]}"}
        async with httpx.AsyncClient(base_url=self._server.url, headers=headers, timeout=120) as session:
            while time.monotonic() < self._end_s:
                body = self._question(rng)
                answer = await self._ask(session, body)
                if answer is not None and answer["next_cursor"] and rng.randrange(100) < _SECOND_PAGES:
                    await self._ask(session, body | {"cursor": answer["next_cursor"]})

    def _question(self, rng: random.Random) -> dict[str, Any]:
        body: dict[str, Any] = {"top": _TOP, "where": {"tags": [rng.choice(TAGS)]} if rng.random() < 0.5 else {}}
        kind = rng.randrange(100)
        if kind < _BY_WORDS:
            body["query"] = {"kind": "text", "text": f"{rng.choice(TEXTS)} {rng.randrange(100)}"}
        elif kind < _BY_WORDS + _BY_PICTURE:
            body["query"] = {"kind": "image", "image_base64": rng.choice(self._pictures)}
        return body

    async def _ask(self, session: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any] | None:
        """One answer, which is kept to be compared; None where there was none."""
        started_s = time.monotonic()
        try:
            answer = await self._sent(session, body)
        except httpx.HTTPError as error:
            self._broken += 1
            self._problems.append(f"{type(error).__name__}: {error}"[:200])
            return None
        self._seconds.append(time.monotonic() - started_s)
        self._statuses[str(answer.status_code)] += 1
        if answer.status_code == 200:
            found: dict[str, Any] = answer.json()
            self._answers.append((body, _short(found)))
            return found
        if answer.status_code in (429, 503):
            await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
        else:
            self._problems.append(answer.text[:200])
        return None

    async def _sent(self, session: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        """Raises httpx.HTTPError: the connection broke as often as a client puts up with."""
        for _ in range(_AGAIN):
            try:
                return await session.post("/v1/search", json=body)
            except httpx.HTTPError:
                self._dropped += 1
        return await session.post("/v1/search", json=body)

    async def _kill(self) -> None:
        """One replica of those that answer each time, in turn, as the kernel's out-of-memory killer does it."""
        names = ("ingress", "encoder")  # which encodes the pictures
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
            "requests": sum(statuses.values()) + self._broken,
            "errors_5xx_not_503": sum(n for status, n in statuses.items() if status[0] == "5" and status != "503"),
            "errors_4xx_not_429": sum(n for status, n in statuses.items() if status[0] == "4" and status != "429"),
            "broken": self._broken,
            "dropped_and_sent_again": self._dropped,
            "wrong": wrong,
            "compared": len(self._answers),
            "compared_by": dict(Counter(_kind(body) for body, _ in self._answers)),
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
        session = lance.Session()
        known: dict[str, list[tuple[str, float]]] = {}
        wrong = 0
        for body, answer in self._answers:
            version = answer["version"]
            self._versions.add(version)
            snapshot = snapshots.setdefault(version, Snapshot.at(self._location, version, session))
            query = body.get("query", {})
            asked = query.get("text") or query.get("image_base64")
            if asked is not None and asked not in vectors:
                vectors[asked] = _vector(encoder, query)
            where = SceneFilter(tags=tuple(body["where"].get("tags", ())), model_id="m1")
            key = f"{version} {asked} {where.tags}"
            if key not in known:
                ranking = snapshot.rank(vectors.get(asked), where, {"similarity": 1.0}, 1000)
                known[key] = [(scene.scene_id, scene.score) for scene in ranking.part(0, 3 * _TOP)]
            wrong += not _agrees(answer["found"], known[key], _TOP if "cursor" in body else 0)
        return wrong


def _picture(n: int) -> str:
    """A JPEG of random patches, as base64."""
    pixels = np.random.default_rng(n).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240), Image.Resampling.NEAREST).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def _vector(encoder: EncoderModel, query: dict[str, Any]) -> NDArray[np.float32]:
    """float32 [E], as the server makes it of a query."""
    if "text" in query:
        return encoder.texts([query["text"]])[0]
    picture = decode_picture(base64.b64decode(query["image_base64"]), "query", PictureLimits(), upright=True)
    return encoder.images([picture.rgb_HWC])[0]


def _kind(body: dict[str, Any]) -> str:
    return f"{body.get('query', {'kind': 'hardest'})['kind']}{', page 2' if 'cursor' in body else ''}"


def _agrees(found: list[tuple[str, float]], right: list[tuple[str, float]], first: int) -> bool:
    """The same scenes with the same scores; scenes whose scores are equal to the last digits may change places.

    Args:
        right: from the best one on. first: place of the page's first scene among them.
    """
    scores, expected = dict(right), right[first : first + _TOP]
    return len(found) == len(expected) and all(
        scene in scores and abs(score - scores[scene]) < _TOLERANCE and abs(score - at_place) < _TOLERANCE
        for (scene, score), (_, at_place) in zip(found, expected, strict=True)
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
