"""The real deployments on the session's head: search, detection, what is new without a restart, a killed replica."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import httpx2 as httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from serve.client import QueryClient, ServiceError
from system.store.location import StoreLocation
from tests.benchmarks.serving import Served, add_scenes, make_detector, make_store, served
from tests.cluster.conftest import Head


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serving")
    make_store(root / "store", 200)
    make_detector(root / "detector", "test_vit")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(root / "a.png")
    return root


@pytest.fixture(scope="module")
def server(house: Path, head: Head) -> Iterator[Served]:
    environment = {key: value for key, value in head.env.items() if key not in os.environ or os.environ[key] != value}
    options = ("--detector", str(house / "detector"))
    with mock.patch.dict(os.environ, environment), served(house, str(house / "store"), *options) as running:
        yield running
    assert "ending: requests under way are answered" in (house / "server.log").read_text()


def test_the_deployments_answer_take_what_is_new_and_survive_a_kill(house: Path, server: Served):
    with QueryClient(server.url, server.tokens[0], tries=20) as client:
        found = client.search(text="bus in fog", top=5)
        assert len(found.hits) == 5 and found.total == 200
        first = client.detect([house / "a.png"], min_score=0.0)
        assert first.classes == ["person", "car"] and first.pictures[0].width == 64

        # What is new is there without a restart.
        add_scenes(StoreLocation.parse(str(house / "store")), 10, first=1000)
        assert client.search(text="bus in fog", top=5).total == 210
        assert client.search(text="bus in fog", top=5, cursor=found.next_cursor).total == 200
        make_detector(house / "detector", "test_vit", seed=1)
        deadline_s = time.monotonic() + 20
        while (second := client.detect([house / "a.png"])).detector_id == first.detector_id:
            assert time.monotonic() < deadline_s
            time.sleep(0.3)
        assert second.classes == first.classes

        # A hundred megabytes are refused whole, and the server goes on.
        with pytest.raises(ServiceError) as refused:
            client._send("POST", "/v1/ir/detect", files={"pictures": ("big.png", io.BytesIO(bytes(100 << 20)))})
        assert refused.value.status == 413

        # A replica that dies is a matter of patience, and never of a 500.
        statuses = set()
        kill_replica("encoder")
        kill_replica("ingress")
        for n in range(10):
            headers = {"Authorization": f"Bearer {server.tokens[0]}"}
            query = {"query": {"kind": "text", "text": f"words {n}"}}
            answer = httpx.post(f"{server.url}/v1/search", json=query, headers=headers, timeout=60)
            statuses.add(answer.status_code)
        assert statuses <= {200, 503}
        assert client.search(text="bus in a tunnel", top=5).total == 210


def kill_replica(name: str) -> None:
    """As the kernel kills a process that takes too much memory; replicas of this session's head only."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if f"nightminer#{name}#" in " ".join(process.cmdline()) or f"nightminer:{name}" in process.name():
                process.send_signal(signal.SIGKILL)
                return
    raise AssertionError(f"no replica of {name}")
