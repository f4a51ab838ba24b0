"""A small store, models of a few numbers, and an application over them, for tests of the server without Ray."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pyarrow as pa
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from serve.app import create_app
from serve.auth import SCOPES, Scope, add_token
from serve.search_store import SearchStore
from serve.services import DetectorFacts, OverloadedError, Services
from serve.settings import Limits, ServeSettings
from system.infrared.detections import Detections
from system.pairs.pixels import InfraredMapping
from system.records import scene_id
from system.store.commits import append_rows
from system.store.location import StoreLocation
from system.store.maintain import tag_version
from system.store.runs import RunRecord, write_run
from system.store.schema import PICTURES, SCENES, pictures_schema, scenes_schema
from system.store.tables import ModelRow, open_for_writing

DIM = 8
SCENE, BARE = scene_id("fleet", "log0", 1, 4), scene_id("fleet", "log1", 4, 4)
TEXT = {"kind": "text", "text": "bus in fog"}
MODEL = ModelRow("m1", "packaged", "tower-1", None, DIM, ("night", "rain", "pedestrian"), "{}")


def make_store(folder: Path, scenes: int = 30) -> StoreLocation:
    """A store of one finished run."""
    location = StoreLocation.parse(str(folder))
    open_for_writing(location, MODEL)
    add_scenes(location, scenes)
    finish_run(location, "r1", 1)
    return location


def finish_run(location: StoreLocation, run_id: str, started_ns: int, model_id: str = "m1") -> None:
    version = tag_version(location, f"run-{run_id}")
    report = {"figures": {"found": 30, "report": "/secret/path/of/the/server.html"}}
    write_run(location, RunRecord(run_id, model_id, "finished", started_ns, started_ns + 1, version, report))


def add_scenes(location: StoreLocation, count: int, first: int = 0, model_id: str = "m1") -> list[str]:
    """Scenes with a vector each but for every fifth, which has no pictures; risk rises with the number."""
    rng = np.random.default_rng(first)
    rows, pictures = [], []
    for k in range(first, first + count):
        vector = rng.normal(size=DIM).astype(np.float32)
        identity = scene_id("fleet", f"log{k // 4}", k, 4)
        has_pictures = k % 5 != 4
        agent = {
            "track_id": "t1", "category": "human.pedestrian.adult", "hazard": 0.1, "min_ttc_s": 1.5,
            "min_dce_m": 0.2, "t_ns": k * 1000 + 500,
        }  # fmt: skip
        rows.append(
            {
                "scene_id": identity, "model_id": model_id, "run_id": "r1", "source": "fleet",
                "log_id": f"log{k // 4}", "log_uri": "/secret/path/of/the/server", "reader": "plain",
                "t_start_ns": k * 1000, "t_end_ns": k * 1000 + 1000,
                "cameras": ["front", "it's a \"camera\""] if has_pictures else [],
                "num_pictures": 2 if has_pictures else 0, "num_bad_pictures": 0, "flags": [],
                "description": "=1+1 a drive", "truth_tags": [], "track_tags": json.dumps({"pedestrian": 1.0}),
                "embedding": vector / np.linalg.norm(vector) if has_pictures else None,
                "tag_probabilities": [0.9, 0.1, 0.5] if has_pictures else None,
                "tags": ["night", "pedestrian"] if k % 2 else ["rain"],
                "risk": k / 100 if k % 3 else None, "risk_source": "tracks" if k % 3 else None,
                "risk_detail": json.dumps({"agents": [agent], "max_braking_mps2": 4.0}),
                "min_ttc_s": 1.5 if k % 2 else None,
                "birds_eye": '{"ego":["ego",0,4.0,1.8,[[0,0,0]]],"agents":[["pedestrian",1,0.6,0.6,[[5,1,0]]]]}',
                "hardness": (k % 7) / 7, "risk_rank": 0.5, "rarity_rank": None if k % 5 == 4 else (k % 11) / 11,
                "ambiguity": 1.0, "ambiguity_rank": 0.2, "rarity": 0.1, "ranked_among": 30,
                "picture_batch": f"b{first}",
            }
        )  # fmt: skip
        if has_pictures:
            for n, camera in enumerate(("front", 'it\'s a "camera"')):
                pictures.append(
                    {
                        "picture_batch": f"b{first}", "scene_id": identity, "camera": camera, "t_ns": k * 1000 + n,
                        "width": 32, "height": 24, "jpeg": jpeg(k),
                    }
                )  # fmt: skip
    append_rows(location, PICTURES, pa.Table.from_pylist(pictures, schema=pictures_schema()))
    append_rows(location, SCENES, pa.Table.from_pylist(rows, schema=scenes_schema(DIM)))
    return [row["scene_id"] for row in rows]


def jpeg(seed: int = 0, size: tuple[int, int] = (24, 32)) -> bytes:
    """A picture with a comment in it that no server should hand on."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", comment=b"camera serial 4711")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass
class FakeEncoder:
    """A text's vector depends on its letters; counts what it is asked."""

    asked: int = 0
    is_busy: bool = False

    async def check(self) -> None:
        if self.is_busy:
            raise OverloadedError

    async def encode_text(self, text: str) -> NDArray[np.float32]:
        self.asked += 1
        if self.is_busy:
            raise OverloadedError
        vector = np.random.default_rng(sum(text.encode())).normal(size=DIM).astype(np.float32)
        return vector / np.linalg.norm(vector)

    async def encode_image(self, rgb_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        return await self.encode_text(str(rgb_HWC.mean()))


@dataclass
class FakeDetector:
    """Finds one box in the middle of every picture, and remembers the pictures. facts: of what is in its folder."""

    seen: list[NDArray[np.uint8]] = field(default_factory=list)
    is_busy: bool = False
    facts: DetectorFacts = field(
        default_factory=lambda: DetectorFacts("d" * 16, ("person", "car"), (32, 48), InfraredMapping())
    )

    async def describe(self) -> DetectorFacts:
        return self.facts

    async def detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[DetectorFacts, Detections]]:
        if self.is_busy:
            raise OverloadedError
        self.seen += list(pictures)
        found = Detections.of([[12, 8, 36, 24]], [0.9], [0], (32, 48))
        return [(self.facts, found) for _ in pictures]


@dataclass
class Server:
    """An application, and a token for each set of scopes that was asked for."""

    app: FastAPI
    location: StoreLocation
    encoder: FakeEncoder
    detector: FakeDetector
    token_file: Path
    audit: Path

    def token(self, *scopes: Scope, name: str = "ana", expires: datetime | None = None) -> dict[str, str]:
        """Headers with a new token."""
        token = add_token(self.token_file, name, scopes or SCOPES, expires)
        return {"Authorization": f"Bearer {token}"}


def make_server(folder: Path, limits: Limits | None = None, scenes: int = 30, with_detector: bool = True) -> Server:
    location = make_store(folder / "store", scenes)
    add_token(folder / "tokens.json", "first", ("read",), None)
    encoder, detector = FakeEncoder(), FakeDetector()
    limits = limits or Limits()
    services = Services(SearchStore(location, limits.max_depth), encoder, detector if with_detector else None)
    settings = ServeSettings(
        store=location.uri, token_file=str(folder / "tokens.json"), audit_log=str(folder / "audit.jsonl"),
        replica=folder.name, limits=limits,
    )  # fmt: skip
    return Server(
        create_app(services, settings), location, encoder, detector, folder / "tokens.json", folder / "audit.jsonl"
    )


def make_server_over(server: Server) -> Server:
    """Another process over the same store."""
    settings = server.app.state.context.settings
    app = create_app(Services(SearchStore(server.location), server.encoder, server.detector), settings)
    return replace(server, app=app)


def ask(server: Server, method: str, path: str, **options: Any) -> httpx.Response:
    """One request with every scope."""

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(server.app)
        headers = server.token() | options.pop("headers", {})
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as session:
            return await session.request(method, path, **options)

    return asyncio.run(once())


def search(server: Server, **body: Any) -> dict[str, Any]:
    """An answer of /v1/search."""
    answer = ask(server, "POST", "/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    """Of the scenes of an answer."""
    return [hit["scene"]["scene_id"] for hit in answer["hits"]]


def all_pages(server: Server, **body: Any) -> list[str]:
    """Ids of the scenes of all pages."""
    found: list[str] = []
    cursor = None
    while True:
        answer = search(server, **body, cursor=cursor)
        found += ids(answer)
        cursor = answer["next_cursor"]
        if cursor is None:
            return found
