"""Taking large sets away: with an end of its own, and with no work that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from serve.exports import Exports
from serve.problems import ProblemError
from serve.settings import Limits
from system.errors import StoppedError
from system.store import export as store_export
from tests.serving import Server, add_scenes, make_server


def export_of(server: Server) -> httpx.Response:
    """Of 80 scenes, whose pictures are read in three parts."""
    ids = add_scenes(server.location, 80, first=1000)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t", headers=server.token()) as client:
            saved = await client.post("/v1/sets", json={"name": "large", "scene_ids": ids})
            return await client.get(f"/v1/sets/{saved.json()['set_id']}/export?format=coco")

    return asyncio.run(run())


@pytest.fixture
def slow_pictures(monkeypatch) -> None:
    """Every part takes its time."""
    read = store_export.read_pictures

    def later(*asked: Any) -> Any:
        time.sleep(1.5)
        return read(*asked)

    monkeypatch.setattr(store_export, "read_pictures", later)


def test_a_set_is_taken_away_though_it_takes_longer_than_a_request_may(tmp_path: Path, slow_pictures):
    answer = export_of(make_server(tmp_path, Limits(request_timeout_s=4.0), scenes=1))
    assert answer.status_code == 200 and answer.content.startswith(b"PK")


def test_an_export_that_takes_too_long_is_final_and_ends(tmp_path: Path, slow_pictures):
    server = make_server(tmp_path, Limits(export_timeout_s=0.5), scenes=1)
    answer = export_of(server)
    assert answer.status_code == 413 and answer.json()["code"] == "export_too_long"
    assert "export_scenes.py" in answer.json()["detail"] and "retry-after" not in answer.headers
    assert not server.app.state.context.exports.busy  # the loop waits for threads when it ends


def test_an_export_ends_when_its_client_leaves_and_a_token_has_one():
    exports = Exports(Limits())
    began, ended = threading.Event(), threading.Event()

    def write(_: Any, check: Any) -> None:
        began.set()
        try:
            while True:
                check()
                time.sleep(0.01)
        finally:
            ended.set()

    async def has_left() -> bool:
        return began.is_set()

    async def run() -> ProblemError:
        first = asyncio.ensure_future(exports.write("ana", write, has_left))
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as refused:
            await exports.write("ana", write, has_left)
        with pytest.raises(StoppedError):
            await first
        while exports.busy:
            await asyncio.sleep(0.01)
        return refused.value

    refused = asyncio.run(asyncio.wait_for(run(), 30))
    assert refused.status_code == 429 and ended.is_set()
