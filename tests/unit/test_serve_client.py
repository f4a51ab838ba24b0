"""The client: patience, typed answers, errors that say what the server said; and the guard around Ray's proxy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2 as httpx
import pytest
from starlette.types import Message
from typer.testing import CliRunner

from jobs import make_token, query_service
from serve import client as client_module
from serve.client import QueryClient, ServiceError
from serve.models import Filters, Problem
from serve.observe import SECURITY_HEADERS
from serve.proxy_guard import ProxyGuard
from system.errors import ConfigError, DataError
from tests.serving import Server, jpeg, make_server


class ToApp(httpx.BaseTransport):
    """Hands requests to an application in this process, after those answers that a test wants first."""

    def __init__(self, server: Server, first: list[httpx.Response | Exception] | None = None) -> None:
        self._server, self._first, self.count = server, first or [], 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        if self._first:
            answer = self._first.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def once() -> httpx.Response:
            inner = httpx.ASGITransport(self._server.app)
            async with httpx.AsyncClient(transport=inner) as session:
                return await session.request(
                    request.method, request.url, headers=request.headers, content=request.read()
                )

        answer = asyncio.run(once())
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return make_server(tmp_path)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    return slept


def connect(server: Server, first: list | None = None, **options) -> tuple[QueryClient, ToApp]:
    transport = ToApp(server, first)
    token = server.token()["Authorization"].removeprefix("Bearer ")
    return QueryClient("http://test", token, transport=transport, **options), transport


def test_a_busy_server_is_asked_again_when_it_says_so(server, waits):
    first = [httpx.Response(503, headers={"Retry-After": "3"}), httpx.ConnectError("no"), httpx.Response(429)]
    client, transport = connect(server, first)
    with client:
        assert client.overview().num_scenes == 30
    assert transport.count == 4 and 3 <= waits[0] <= 3.6 and 0 < waits[1] < 2


def problem(code: str, status: int = 503) -> httpx.Response:
    told = Problem(title="t", status=status, detail="d", code=code, request_id="r")
    return httpx.Response(status, json=told.model_dump(mode="json"))


def test_a_save_is_sent_again_only_where_nothing_was_begun(server, waits):
    scene = connect(server)[0].search(top=1).hits[0].scene.scene_id
    client, transport = connect(server, [httpx.ConnectError("refused"), httpx.Response(429), problem("overloaded")])
    assert client.save_set("mine", [scene]).num_scenes == 1 and transport.count == 4
    for lost in (httpx.ReadError("cut"), httpx.ReadTimeout("slow"), problem("replica_lost"), httpx.Response(503)):
        client, transport = connect(server, [lost])
        with pytest.raises(ServiceError):
            client.save_set("mine", [scene])
        assert transport.count == 1, lost


def test_patience_ends_and_what_is_final_is_not_asked_again(server, waits):
    client, transport = connect(server, [httpx.Response(503)] * 9, tries=3)
    with pytest.raises(ServiceError, match="HTTP 503"):
        client.overview()
    assert transport.count == 3 and len(waits) == 2
    client, transport = connect(server, [httpx.ConnectError("no route")] * 9, tries=2)
    with pytest.raises(ServiceError, match="no route"):
        client.overview()
    client, transport = connect(server)
    with pytest.raises(ServiceError, match=r"404 unknown_name.*unknown tag 'snow'.*request [0-9a-f]{32}") as told:
        client.search(where=Filters(tags=["snow"]))
    assert transport.count == 1 and told.value.status == 404 and told.value.problem.code == "unknown_name"
    client, _ = connect(server, [httpx.Response(200, content=b"{}")])
    with pytest.raises(ServiceError, match="another version"):
        client.overview()


def test_it_searches_pages_saves_and_detects(server, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    client, _ = connect(server)
    with client:
        hits = list(client.pages(20, text="bus"))
        assert len({hit.scene.scene_id for hit in hits}) == 20
        assert client.search(scene=hits[0].scene.scene_id, top=3).hits
        assert client.search(image=tmp_path / "a.jpg", top=3).hits
        assert client.scene(hits[0].scene.scene_id).scene == hits[0].scene
        saved = client.save_set("mine", [hit.scene.scene_id for hit in hits[:2]])
        assert client.export(saved.set_id, "csv").count(b"\n") == 3
        assert client.detect([tmp_path / "a.jpg"]).pictures[0].detections[0].label == "person"
        with pytest.raises(ConfigError, match="not several"):
            client.search(text="a", scene="b")
        with pytest.raises(DataError, match="unreadable_file"):
            client.detect([tmp_path / "none.jpg"])


def test_the_command_line_asks_and_prints_figures(server, tmp_path, monkeypatch):
    token = server.token()["Authorization"].removeprefix("Bearer ")
    monkeypatch.setattr(query_service, "QueryClient", lambda url, t: QueryClient(url, t, transport=ToApp(server)))
    run, environment = CliRunner(), {"NIGHTMINER_TOKEN": token}
    done = run.invoke(query_service.app, ["search", "--text", "bus", "--tag", "night", "--top", "3"], env=environment)
    assert done.exit_code == 0 and len(json.loads(done.stdout.splitlines()[-1])["results"]) == 3
    (tmp_path / "a.jpg").write_bytes(jpeg())
    done = run.invoke(query_service.app, ["detect", str(tmp_path / "a.jpg")], env=environment)
    assert json.loads(done.stdout.splitlines()[-1])["pictures"][0]["detections"]
    done = run.invoke(query_service.app, ["search", "--tag", "snow"], env=environment)
    assert done.exit_code == 8 and "unknown tag 'snow'" in done.stderr
    done = run.invoke(query_service.app, ["search", "--min-risk", "7"], env=environment)
    assert done.exit_code == 2 and "min_risk" in done.stderr
    (tmp_path / "big.jpg").write_bytes(bytes(9 << 20))
    wrong = {"--scene": "abc", "--text": "x" * 501, "--image": str(tmp_path / "big.jpg"), "--as-of": "../x"}
    for option, value in wrong.items():
        done = run.invoke(query_service.app, ["search", option, value], env=environment)
        assert done.exit_code == 2 and "Traceback" not in done.stderr and "xxx" not in done.stderr, option


def test_a_token_that_no_header_can_hold_is_told():
    with pytest.raises(ConfigError, match="not ASCII"):
        QueryClient("http://test", "nm_schlüssel")


def test_a_token_is_made_printed_once_and_taken_at_once(server):
    options = ["--token-file", str(server.token_file), "--name", "bo", "--scopes", "detect,read", "--days", "1"]
    token = CliRunner().invoke(make_token.app, options).stdout.strip()
    client = QueryClient("http://test", token, transport=ToApp(server))
    assert client.overview().num_scenes == 30 and token not in server.token_file.read_text()
    wrong = CliRunner().invoke(make_token.app, [*options[:5], "root"])
    assert wrong.exit_code == 2 and "read, detect, export, admin" in wrong.stderr


def guarded(
    method: str, path: str, dies: int, body: bytes = b"{}", identity: bytes = b""
) -> tuple[list[Message], int, list[bytes]]:
    """A request through the guard to a proxy whose replica dies so many times; (answer, requests, bodies)."""
    calls, bodies, sent, identities = 0, [], [], set()

    async def proxy(scope, receive, send):
        nonlocal calls
        calls += 1
        identities.update(value for name, value in scope["headers"] if name == b"x-request-id")
        bodies.append((await receive())["body"])
        if calls > dies:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x-request-id", identity)] if identity else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(ProxyGuard(proxy)(scope, receive, send))
    assert len(identities) == 1, "all tries of a request are logged by one id"
    return sent, calls, bodies


def test_what_changes_nothing_is_asked_of_another_replica():
    sent, calls, bodies = guarded("POST", "/v1/search", dies=1, body=b'{"top": 3}')
    assert sent[0]["status"] == 200 and calls == 2 and bodies == [b'{"top": 3}'] * 2
    sent, calls, _ = guarded("GET", "/v1/me", dies=9)
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 503 and calls == 3 and headers[b"retry-after"] == b"1"
    assert json.loads(sent[1]["body"])["code"] == "replica_lost"


@pytest.mark.parametrize(("given", "length"), [(b"mine-1", 6), (b"a b{}", 32), (b"", 32)])
def test_what_the_proxy_answers_by_itself_is_logged_and_guarded_as_all_else(given, length, caplog):
    (start, body), *_ = guarded("GET", "/v1/me", dies=9, identity=given)
    headers, told = {name.decode(): value.decode() for name, value in start["headers"]}, json.loads(body["body"])
    assert told["request_id"] == headers["x-request-id"] and told["request_id"] in caplog.text
    assert len(told["request_id"]) == length
    assert set(headers) >= {name.lower() for name in SECURITY_HEADERS} and headers["cache-control"] == "no-store"


def test_what_changes_something_or_is_large_is_asked_once():
    assert guarded("POST", "/v1/sets", dies=9)[1] == 1
    assert guarded("POST", "/v1/ir/detect", dies=9)[0][0]["status"] == 503
    assert guarded("POST", "/v1/search", dies=9, body=bytes(100_000))[1] == 1


@pytest.mark.parametrize(("status", "code"), [(408, "timed_out"), (503, "overloaded")])
def test_what_ray_says_by_itself_asks_to_come_again(status, code):
    sent = []

    async def proxy(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Request 1 timed out"})

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(ProxyGuard(proxy)({"type": "http", "method": "GET", "path": "/v1/me", "headers": []}, None, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503 and dict(sent[0]["headers"])[b"retry-after"] == b"1"
    assert json.loads(sent[1]["body"])["code"] == code
