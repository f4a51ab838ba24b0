"""Who gets in: every route without, with a wrong, an expired and an under-scoped token; rotation; what is logged."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest

from serve.auth import TokenBook, add_token, hash_token, read_token_file
from serve.settings import LaunchConfig, Limits
from system.errors import ConfigError
from tests.serving import DIM, Server, jpeg, make_server

OPEN = {"/healthz", "/readyz"}
# Every other route, and the scope that it takes; a new route is added here on purpose.
SCOPE_OF = {
    ("GET", "/metrics"): "admin",
    ("GET", "/v1/me"): "read",
    ("POST", "/v1/search"): "read",
    ("GET", "/v1/hard"): "read",
    ("GET", "/v1/scenes/{scene_id}"): "read",
    ("GET", "/v1/scenes/{scene_id}/similar"): "read",
    ("GET", "/v1/scenes/{scene_id}/timeline"): "read",
    ("GET", "/v1/scenes/{scene_id}/frames"): "read",
    ("GET", "/v1/scenes/{scene_id}/cover"): "read",
    ("GET", "/v1/scenes/{scene_id}/frames/{camera}/{k}"): "read",
    ("GET", "/v1/overview"): "read",
    ("GET", "/v1/tags"): "read",
    ("GET", "/v1/logs"): "read",
    ("GET", "/v1/runs"): "read",
    ("GET", "/v1/ir/detector"): "detect",
    ("POST", "/v1/ir/detect"): "detect",
    ("POST", "/v1/sets"): "export",
    ("GET", "/v1/sets"): "read",
    ("GET", "/v1/sets/{set_id}"): "read",
    ("DELETE", "/v1/sets/{set_id}"): "export",
    ("GET", "/v1/sets/{set_id}/export"): "export",
}
ROUTES = sorted(SCOPE_OF)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return make_server(tmp_path_factory.mktemp("access"))


def client(server: Server, **options) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://test", **options)


def ask(server: Server, method: str, path: str, **options) -> httpx.Response:
    async def once() -> httpx.Response:
        async with client(server) as session:
            return await session.request(method, path, **options)

    return asyncio.run(once())


def filled(path: str) -> str:
    return path.format(scene_id="0" * 32, set_id="0" * 16, camera="front", k=0)


def body_of(path: str) -> dict:
    bodies = {
        "/v1/search": {"json": {}},
        "/v1/sets": {"json": {"name": "a", "scene_ids": ["0" * 32]}},
        "/v1/ir/detect": {"files": {"pictures": ("a.jpg", jpeg(), "image/jpeg")}},
    }
    return bodies.get(path, {})


def test_every_route_is_named_here(server):
    described = server.app.openapi()["paths"]
    found = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert found == set(SCOPE_OF) | {("GET", path) for path in OPEN}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_lets_in_only_its_scope(server, method, path):
    send = {"method": method, "path": filled(path)}
    body = body_of(path) if method == "POST" else {}
    without = ask(server, **send, **body)
    assert without.status_code == 401 and without.headers["www-authenticate"] == "Bearer"
    assert without.headers["content-type"] == "application/problem+json"
    assert without.json()["code"] == "token_missing" and without.json()["request_id"]
    for header in ("Bearer nm_wrong", "Bearer ", "Basic YTpi", "Bearer " + "x" * 5000, "bearer \xe9"):
        wrong = ask(server, **send, **body, headers={"Authorization": header.encode("latin-1")})
        assert wrong.status_code == 401, header
    expired = server.token(name="old", expires=datetime.now(UTC) - timedelta(seconds=1))
    told = ask(server, **send, **body, headers=expired)
    assert told.status_code == 401 and told.json()["code"] == "token_expired"
    scope = SCOPE_OF[method, path]
    others = [other for other in ("read", "detect", "export", "admin") if other != scope]
    under = ask(server, **send, **body, headers=server.token(*others, name="under"))
    assert under.status_code == 403 and under.json()["code"] == "scope_missing" and scope in under.json()["detail"]
    allowed = ask(server, **send, **body, headers=server.token(scope, name="right"))
    assert allowed.status_code not in (401, 403, 405) and allowed.status_code < 500


def test_a_body_is_not_read_before_its_token_is(server):
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    assert ask(server, "POST", "/v1/ir/detect", content=body()).status_code == 401
    under = server.token("read", name="under")
    answer = ask(server, "POST", "/v1/ir/detect", content=body(), headers=under)
    assert answer.status_code == 403
    # httpx' transport reads the first part by itself.
    assert read <= 2


def test_tokens_rotate_without_a_restart(tmp_path):
    server = make_server(tmp_path)
    first = server.token("read")
    assert ask(server, "GET", "/v1/me", headers=first).json()["scopes"] == ["read"]
    second = server.token("read", "export")
    assert ask(server, "GET", "/v1/me", headers=first).status_code == 401
    assert ask(server, "GET", "/v1/me", headers=second).json()["scopes"] == ["read", "export"]
    server.token_file.write_text("{")
    told = ask(server, "GET", "/v1/me", headers=second)
    assert told.status_code == 503 and told.json()["code"] == "tokens_unavailable"
    assert str(server.token_file) not in told.text
    assert ask(server, "GET", "/readyz").json()["checks"]["tokens"] == "unavailable"
    server.token_file.unlink()
    assert ask(server, "GET", "/v1/me", headers=second).status_code == 503


def test_a_token_file_holds_no_token_and_is_its_owners(tmp_path):
    path = tmp_path / "tokens.json"
    token = add_token(path, "ana", ("read",), None)
    assert token not in path.read_text() and hash_token(token) in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert TokenBook(path).authenticate(f"Bearer {token}").name == "ana"
    assert add_token(path, "ana", ("read",), None) != token and len(read_token_file(path).tokens) == 1
    with pytest.raises(ConfigError, match="name"):
        add_token(path, "no good\n", ("read",), None)
    record = json.loads(path.read_text())["tokens"][0]
    path.write_text(json.dumps({"tokens": [record, record]}))
    with pytest.raises(ConfigError, match="two tokens have one name"):
        read_token_file(path)


def test_comparing_takes_as_long_for_the_first_token_as_for_none(tmp_path, monkeypatch):
    path = tmp_path / "tokens.json"
    tokens = [add_token(path, f"t{n}", ("read",), None) for n in range(5)]
    compared = []
    monkeypatch.setattr("serve.auth.hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
    book = TokenBook(path)
    book.authenticate(f"Bearer {tokens[0]}")
    assert len(compared) == 5


def test_security_headers_are_on_every_answer(server):
    for path in ("/healthz", "/v1/me", "/nothing", "/openapi.json"):
        headers = ask(server, "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"] and headers["x-request-id"]
        assert "script-src 'self';" in headers["content-security-policy"]
    given = ask(server, "GET", "/healthz", headers={"X-Request-ID": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    forged = ask(server, "GET", "/healthz", headers={"X-Request-ID": "a b{}"})
    assert len(forged.headers["x-request-id"]) == 32


def test_the_audit_log_tells_who_and_what_and_no_secret(tmp_path):
    server = make_server(tmp_path)
    headers = server.token(name="ana")
    query = {"query": {"kind": "text", "text": "very private words"}}
    answer = ask(server, "POST", "/v1/search", headers=headers, json=query)
    ask(server, "GET", "/v1/tags?x=secretparameter", headers=headers)
    ask(server, "GET", f"/v1/scenes/{'0' * 32}", headers=headers)
    ask(server, "GET", "/v1/me", headers={"Authorization": "Bearer nm_wrongsecret"})
    text = server.audit.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["token"], line["route"], line["status"]) for line in lines] == [
        ("ana", "/v1/search", 200),
        ("ana", "/v1/tags", 422),
        ("ana", "/v1/scenes/{scene_id}", 404),
        (None, "(none)", 401),
    ]
    assert lines[0]["request_id"] == answer.headers["x-request-id"] and lines[2]["ids"] == {"scene_id": "0" * 32}
    assert lines[2]["code"] == "no_such_scene"
    for secret in ("private", "secretparameter", "nm_", headers["Authorization"].split()[1]):
        assert secret not in text


def test_one_token_has_so_many_requests_at_a_time_and_the_server_too(tmp_path):
    server = make_server(tmp_path, Limits(token_concurrency=2, max_in_flight=3, retry_after_s=7))
    ana, bo = server.token(name="ana"), server.token(name="bo")
    release = asyncio.Event()

    async def slow(text: str):
        await release.wait()
        raise AssertionError

    async def run() -> list[httpx.Response]:
        server.encoder.encode_text = slow
        async with client(server) as session:

            def search(headers: dict, n: int) -> asyncio.Task:
                query = {"query": {"kind": "text", "text": f"words {n}"}}
                return asyncio.ensure_future(session.post("/v1/search", json=query, headers=headers))

            held = [search(ana, 0), search(ana, 1)]
            await asyncio.sleep(0.1)
            refused = [await session.get("/v1/me", headers=ana)]
            held.append(search(bo, 2))
            await asyncio.sleep(0.1)
            refused.append(await session.get("/v1/me", headers=bo))
            release.set()
            await asyncio.gather(*held)
            refused.append(await session.get("/v1/me", headers=ana))
        return refused

    busy, full, after = asyncio.run(run())
    assert busy.status_code == 429 and busy.headers["retry-after"] == "7"
    assert full.status_code == 503 and full.headers["retry-after"] == "7"
    assert after.status_code == 200  # what failed is counted down too


def test_a_fault_that_nobody_foresaw_tells_the_client_nothing(tmp_path, caplog):
    server = make_server(tmp_path)

    async def broken(text: str):
        raise RuntimeError("/secret/path")

    server.encoder.encode_text = broken
    query = {"query": {"kind": "text", "text": "words"}}
    answer = ask(server, "POST", "/v1/search", json=query, headers=server.token())
    assert answer.status_code == 500 and answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text and "secret" in caplog.text
    assert answer.json()["request_id"] in caplog.text


def test_metrics_count_and_name_no_path_of_a_client(server):
    headers = server.token(name="admin")
    ask(server, "GET", "/v1/made-up-by-a-client", headers=headers)
    text = ask(server, "GET", "/metrics", headers=headers).text
    assert 'nightminer_requests_total{method="GET",replica=' in text and "made-up" not in text
    assert 'route="/v1/search"' in text and "nightminer_requests_in_flight" in text


def test_a_local_server_without_tokens_stays_on_loopback(tmp_path):
    LaunchConfig(store=str(tmp_path)).check()
    LaunchConfig(store=str(tmp_path), host="0.0.0.0", token_file="tokens.json").check()
    with pytest.raises(ConfigError, match="token-file"):
        LaunchConfig(store=str(tmp_path), host="0.0.0.0").check()


def test_all_steps_of_an_answer_take_no_longer_than_a_request_may(tmp_path):
    server = make_server(tmp_path, Limits(request_timeout_s=0.3))
    context = server.app.state.context
    query = {"kind": "scene", "scene_id": "0" * 32}

    def slow(answer: Callable[..., object]) -> Callable[..., object]:
        def later(*args: object) -> object:
            time.sleep(0.2)
            return answer(*args)

        return later

    context.queries.of_scene = slow(lambda *_: np.ones(DIM, np.float32))
    context.services.store.search = slow(context.services.store.search)
    answer = ask(server, "POST", "/v1/search", json={"query": query}, headers=server.token())
    assert answer.status_code == 503 and answer.json()["code"] == "timed_out" and answer.headers["retry-after"]
    describe, detect = server.detector.describe, server.detector.detect

    async def describe_late() -> object:
        await asyncio.sleep(0.2)
        return await describe()

    async def detect_late(pictures: Sequence[np.ndarray]) -> object:
        await asyncio.sleep(0.2)
        return await detect(pictures)

    server.detector.describe, server.detector.detect = describe_late, detect_late
    files = [("pictures", ("a.jpg", jpeg(), "image/jpeg"))]
    answer = ask(server, "POST", "/v1/ir/detect", files=files, headers=server.token())
    assert answer.status_code == 503 and answer.json()["code"] == "timed_out"


def test_no_secret_lies_in_the_repository():
    root = Path(__file__).parents[2]
    assert not list(root.glob("serve/**/*token*.json"))
