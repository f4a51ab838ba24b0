"""Bring the application up on one machine, on loopback unless told otherwise, and stop it gracefully."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import ray
from ray import serve
from ray.exceptions import GetTimeoutError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from serve.auth import SCOPES, TokenBook, add_token
from serve.deployments import build
from serve.settings import LaunchConfig
from system.errors import ConfigError
from system.infrared.detector import Detector
from system.pipelines.resources import connect_to_ray
from system.store.location import StoreLocation

APPLICATION = "nightminer"
# Beyond the application's own limits, of which that of exports is the longest.
_REQUEST_MORE_S = 60.0
_READY_WITHIN_S = 300.0


@contextmanager
def launched(config: LaunchConfig) -> Iterator[tuple[str, str | None]]:
    """Serve while the context lasts: joins the Ray of this process or of RAY_ADDRESS, or starts one here.

    Where Ray serves already, host and port must be those of its Serve; the end then removes this application alone.

    Yields:
        (URL, a token or None): the token where none was given; it is kept nowhere.
    Raises:
        ConfigError: without tokens on an address that others reach; a port that is taken; a Ray that serves already;
            a store that is neither a folder nor a URI; a token file or an audit log that cannot be opened.
        ModelError: there is no detector in its folder, or it is damaged.
    """
    config.check()
    _check_files(config)
    with tempfile.TemporaryDirectory(prefix="nightminer-serve-") as folder:
        token, token_file = None, config.token_file
        if token_file is None:
            token_file = str(Path(folder) / "tokens.json")
            token = add_token(Path(token_file), "local", SCOPES, None)
        values: dict[str, Any] = config.model_dump(mode="json", exclude={"host", "port"})
        # Replicas of a Ray that is joined run in other folders.
        values["store"] = StoreLocation.parse(config.store).uri
        values["token_file"] = str(Path(token_file).absolute())
        for name in ("detector", "audit_log"):
            if values[name] is not None:
                values[name] = str(Path(values[name]).absolute())
        application = build(values)
        was_connected = ray.is_initialized()
        connect_to_ray()
        try:
            before = serve.status()
            if APPLICATION in before.applications:
                raise ConfigError(f"this Ray serves an application {APPLICATION!r} already; end that one first")
            longest_s = max(config.limits.export_timeout_s, config.limits.request_timeout_s) + _REQUEST_MORE_S
            options = HTTPOptions(host=config.host, port=config.port, request_timeout_s=longest_s)
            quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
            try:
                _start_proxy(options, quiet)
                serve.run(application, name=APPLICATION, route_prefix="/", logging_config=quiet)
                url = f"http://{config.host}:{config.port}"
                _wait_until_ready(url)
                yield url, token
            finally:
                # Replicas end what they have begun.
                if before.proxies or set(serve.status().applications) - {APPLICATION}:
                    serve.delete(APPLICATION)
                else:
                    serve.shutdown()
        finally:
            if not was_connected:
                ray.shutdown()


def _check_files(config: LaunchConfig) -> None:
    """A replica that finds a mistake in them is started again and again; here it ends the launch at once."""
    if config.token_file is not None:
        TokenBook(config.token_file).records()
    if config.detector is not None:
        Detector.load(config.detector)
    if config.audit_log is not None:
        try:
            open(config.audit_log, "ab").close()
        except OSError as error:
            told = f"audit log {config.audit_log}: {error.strerror}; expected a file that can be appended to"
            raise ConfigError(told) from error


def _start_proxy(options: HTTPOptions, quiet: LoggingConfig) -> None:
    """Ray waits one minute for its proxy to import what it needs, which a busy machine takes longer for."""
    deadline_s = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=options, logging_config=quiet)
            return
        except (TimeoutError, GetTimeoutError) as error:
            if time.monotonic() > deadline_s:
                raise ConfigError(
                    f"{options.host}:{options.port}: Ray's HTTP proxy did not come up: {error}"
                ) from error


def _wait_until_ready(url: str) -> None:
    deadline_s = time.monotonic() + _READY_WITHIN_S
    told = "no answer"
    while time.monotonic() < deadline_s:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=10)
            told = answer.text
            if answer.status_code == 200:
                return
        except httpx.HTTPError as error:
            told = str(error)
        time.sleep(0.1)
    raise ConfigError(f"{url} did not become ready within {_READY_WITHIN_S:g} s: {told}")


def wait_for_a_signal() -> None:
    """Until SIGINT or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(0.5):
        pass
