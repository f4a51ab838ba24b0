"""Bearer tokens with scopes. The file holds SHA-256 of each token and never a token.

    {"tokens": [{"name": "ana", "sha256": "9f86d0...", "scopes": ["read"], "expires": "2027-01-31T00:00:00Z"}]}

A token is 256 random bits, so that one round of SHA-256 is enough: there is nothing to guess. `jobs/make_token.py`
makes one. The file is read again whenever it changes; one that is missing or damaged lets nobody in.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import AwareDatetime, Field

from system.config import FrozenConfig
from system.errors import ConfigError

Scope = Literal["read", "detect", "export", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "nm_"
_MAX_TOKEN_CHARS = 256
_MAX_FILE_BYTES = 1 << 20


class TokenRecord(FrozenConfig):
    """A token as the file knows it. name: who has it, for the audit log and for limits; no secret."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    expires: AwareDatetime | None = None


class TokenFile(FrozenConfig):
    """The whole file."""

    tokens: tuple[TokenRecord, ...] = ()


class AuthError(Exception):
    """A request is not let in. reason: "missing", "malformed", "unknown" or "expired"; what the client is told."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TokenBook:
    """The tokens of a file, kept up to date."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._records: tuple[TokenRecord, ...] = ()

    def authenticate(self, header: str | None) -> TokenRecord:
        """Whose token an `Authorization` header carries.

        Raises:
            AuthError: no header, none of ours, or an expired one. ConfigError: the file cannot be read.
        """
        if header is None:
            raise AuthError("missing")
        kind, _, token = header.partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token or len(token) > _MAX_TOKEN_CHARS:
            raise AuthError("malformed")
        digest = hash_token(token)
        found = None
        for record in self.records():  # all of them, so that time tells nothing of the place
            if hmac.compare_digest(record.sha256, digest):
                found = record
        if found is None:
            raise AuthError("unknown")
        if found.expires is not None and found.expires <= datetime.now(UTC):
            raise AuthError("expired")
        return found

    def records(self) -> tuple[TokenRecord, ...]:
        """As the file stands now.

        Raises:
            ConfigError: it is missing or damaged.
        """
        try:
            told = self._path.stat()
        except OSError as error:
            raise ConfigError(f"token file {self._path}: {error.strerror}; jobs/make_token.py makes one") from error
        stamp = (told.st_mtime_ns, told.st_size, told.st_ino)
        with self._lock:
            if stamp != self._stamp:
                self._records = read_token_file(self._path).tokens
                self._stamp = stamp
            return self._records


def read_token_file(path: Path) -> TokenFile:
    """
    Raises:
        ConfigError: it cannot be read, or is not of the form above.
    """
    try:
        text = path.read_bytes()[: _MAX_FILE_BYTES + 1]
        if len(text) > _MAX_FILE_BYTES:
            raise ConfigError(f"token file {path}: expected at most {_MAX_FILE_BYTES} bytes")
        values = json.loads(text)
    except OSError as error:
        raise ConfigError(f"token file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"token file {path}: expected JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"token file {path}: expected an object with a list `tokens`")
    file = TokenFile.parse(values, f"token file {path}")
    names = [record.name for record in file.tokens]
    if len(set(names)) < len(names):
        raise ConfigError(f"token file {path}: two tokens have one name; limits and the audit log tell them by it")
    return file


def add_token(path: Path, name: str, scopes: tuple[Scope, ...], expires: datetime | None) -> str:
    """Make a token, write its hash to a file that only its owner may read, and return the token, which is kept nowhere.

    A name that is there already gets the new token in place of its old one.

    Raises:
        ConfigError: the file is damaged or cannot be written; a bad name.
    """
    token = _PREFIX + secrets.token_urlsafe(32)
    values = {"name": name, "sha256": hash_token(token), "scopes": scopes, "expires": expires}
    record = TokenRecord.parse(values, "token")
    kept = [old for old in (read_token_file(path).tokens if path.exists() else ()) if old.name != name]
    content = TokenFile(tokens=(*kept, record)).model_dump_json(indent=1) + "\n"
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(draft, path)
    except OSError as error:
        raise ConfigError(f"token file {path}: cannot be written: {error.strerror}") from error
    return token


def hash_token(token: str) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
