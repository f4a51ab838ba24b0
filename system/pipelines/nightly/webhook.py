"""Send a night's summary to somebody's HTTP server, signed, so that they know who sent it and when.

    X-Nightminer-Timestamp: seconds since 1970
    X-Nightminer-Signature: sha256=HEX     HMAC-SHA256 with the secret, over "TIMESTAMP.BODY"
    X-Nightminer-Delivery: the same for every attempt at one message

A receiver computes the signature over the bytes that it got, compares in constant time, and refuses old timestamps.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2 as httpx

from system.errors import ConfigError
from system.pipelines.nightly.config import WebhookConfig

_FIRST_PAUSE_S = 1.0
_LEAST_SECRET_BYTES = 16


def read_secret(config: WebhookConfig) -> bytes:
    """The secret, from where the configuration says; white space around it does not count.

    Raises:
        ConfigError: it is not there, or too short to be one.
    """
    if config.secret_env is not None:
        where, text = f"environment variable {config.secret_env}", os.environ.get(config.secret_env, "")
    else:
        where = f"file {config.secret_file}"
        try:
            text = Path(str(config.secret_file)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"webhook: the secret's {where} cannot be read: {error}") from error
    secret = text.strip().encode()
    if len(secret) < _LEAST_SECRET_BYTES:
        told = f"expected a secret of at least {_LEAST_SECRET_BYTES} bytes in the {where}, found {len(secret)}"
        raise ConfigError(f"webhook: {told}; `openssl rand -hex 32` makes one")
    return secret


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """What the signature's header holds."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def send(
    config: WebhookConfig,
    secret: bytes,
    message: Mapping[str, Any],
    delivery: str,
    pause: Callable[[float], None] = time.sleep,
) -> str | None:
    """Send a message, several times where nobody answers or the server is overloaded.

    Returns:
        None once it was taken; else what went wrong. The night itself is not harmed by it.
    """
    body = json.dumps(message, default=str).encode()
    problem = ""
    with httpx.Client(timeout=config.timeout_s, follow_redirects=False) as client:
        for attempt in range(config.attempts):
            if attempt:
                pause(_FIRST_PAUSE_S * 2 ** (attempt - 1))
            timestamp = str(int(time.time()))
            headers = {
                "Content-Type": "application/json",
                "X-Nightminer-Timestamp": timestamp,
                "X-Nightminer-Signature": sign(secret, timestamp, body),
                "X-Nightminer-Delivery": delivery,
            }
            try:
                answer = client.post(config.url, content=body, headers=headers)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if answer.is_success:
                return None
            problem = f"HTTP {answer.status_code}"
            if answer.status_code < 500 and answer.status_code not in (408, 429):
                break
    # A webhook's path is often a secret of its own.
    return f"{httpx.URL(config.url).host} did not take the summary: {problem}"
