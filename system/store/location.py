"""Where a store lies: a local folder or an object-store URI, and the small files beside its tables."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fsspec
import lance
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from system.errors import ConfigError, DamagedError, SchemaError, StoreError, reason_of, storage_errors

if TYPE_CHECKING:
    import lancedb

SCHEMA_VERSION = 1
MARKER = "nightminer.json"
_SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https")


@dataclass(frozen=True)
class StoreLocation:
    """A store's root. `uri` is an absolute local path or an object-store URI, without a trailing slash."""

    uri: str

    @classmethod
    def parse(cls, uri: str) -> StoreLocation:
        """From what a user typed.

        Raises:
            ConfigError: empty, or a scheme that nothing can open.
        """
        if not uri.strip():
            raise ConfigError("--store is empty; expected a folder or an object-store URI such as s3://bucket/store")
        if "://" not in uri and (typo := re.match(r"([a-z0-9]{2,}):?//?(?=[^/])", uri)) and typo[1] in _SCHEMES:
            raise ConfigError(
                f"--store {uri}: neither a folder nor a URI; did you mean {typo[1]}://{uri[typo.end() :]}?"
            )
        if "://" not in uri:
            return cls(os.path.abspath(os.path.expanduser(uri)))
        try:
            url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"--store {uri}: no file system for this URI: {error}") from error
        return cls(uri.rstrip("/"))

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    def table_uri(self, table: str) -> str:
        return f"{self.uri}/{table}.lance"

    def storage_options(self) -> dict[str, str]:
        """What Lance needs to reach an object store, from the environment; credentials it finds there by itself."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        if self.is_local or not endpoint:
            return {}
        return {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}

    def connect(self) -> lancedb.DBConnection:
        """A LanceDB connection that sees every commit at once."""
        # Here and not at the top: the import takes a second, and a run that finds nothing new does without.
        from datetime import timedelta

        import lancedb

        return lancedb.connect(
            self.uri, storage_options=self.storage_options(), read_consistency_interval=timedelta(seconds=0)
        )

    def dataset(
        self, table: str, version: int | None = None, session: lance.Session | None = None
    ) -> lance.LanceDataset:
        """A version of a table, the newest if none is named.

        Args:
            session: keeps what was read of indices and files for whatever else is opened with it.
        Raises:
            StoreError: there is no such table.
        """
        options = self.storage_options()
        try:
            return lance.dataset(self.table_uri(table), version=version, storage_options=options, session=session)
        except (ValueError, OSError) as error:
            if self.marker() is None:
                told = f"{self.uri}: no Nightminer store is here; jobs/mine_fleet.py --store makes one"
                raise StoreError(told) from error
            raise StoreError(f"{self.uri}: expected a Nightminer store with a table {table!r}: {error}") from error

    def tags(self, table: str, session: lance.Session | None = None) -> dict[str, int]:
        """Versions of a table by their tags.

        Raises:
            StoreError: there is no such table, or a tag cannot be read.
        """
        dataset = self.dataset(table, session=session)
        try:
            return {name: int(about["version"]) for name, about in dataset.tags.list().items()}
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreError(f"{self.uri}: the tags of {table} cannot be read: {error}") from error

    def has_table(self, table: str) -> bool:
        fs, path = self.filesystem()
        return bool(fs.exists(f"{path}/{table}.lance"))

    def filesystem(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # Not by fsspec's parser for a folder, in whose name "::" would mean a chain of file systems.
        fs, path = (LocalFileSystem(), self.uri) if self.is_local else url_to_fs(self.uri)
        # Another process writes here too: a cached listing would hide it.
        fs.invalidate_cache()
        return fs, path

    def read_text(self, name: str) -> str | None:
        """A small file below the root, or None where it is not there.

        Raises:
            DamagedError: it is not UTF-8. StoreError: the store cannot be read.
        """
        fs, path = self.filesystem()
        try:
            return fs.cat_file(f"{path}/{name}").decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise DamagedError(f"{self.uri}/{name} is damaged: expected UTF-8: {error.reason}") from error
        except Exception as error:
            if not isinstance(error, storage_errors()):
                raise
            raise StoreError(
                f"{self.uri}: cannot read {name}; expected a folder or object store: {reason_of(error)}"
            ) from error

    def write_text(self, name: str, text: str) -> str:
        """As `write_bytes`, in UTF-8."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> str:
        """Write a small file below the root and return its URI.

        Raises:
            StoreError: the store is read-only or full.
        """
        fs, path = self.filesystem()
        target = f"{path}/{name}"
        try:
            if self.is_local:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                # Replace in one step: a reader never sees half a file, a full disk leaves the old one.
                with open(f"{target}.tmp", "wb") as file:
                    file.write(data)
                os.replace(f"{target}.tmp", target)
            else:
                fs.pipe_file(target, data)
        except Exception as error:
            if not isinstance(error, storage_errors()):
                raise
            raise StoreError(f"{self.uri}: cannot write {name}: {reason_of(error)}") from error
        return f"{self.uri}/{name}"

    def remove(self, name: str) -> None:
        """Remove a small file below the root, where it is there.

        Raises:
            StoreError: the store is read-only or not reachable.
        """
        fs, path = self.filesystem()
        try:
            fs.rm_file(f"{path}/{name}")
        except FileNotFoundError:
            return
        except Exception as error:
            if not isinstance(error, storage_errors()):
                raise
            raise StoreError(f"{self.uri}: cannot remove {name}: {reason_of(error)}") from error

    def marker(self) -> dict[str, Any] | None:
        """What the store says of itself, or None for a new one.

        Raises:
            SchemaError: written by a newer Nightminer.
            StoreError: the marker is damaged.
        """
        text = self.read_text(MARKER)
        if text is None:
            return None
        try:
            marker = json.loads(text)
            version = int(marker["schema_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.uri}/{MARKER} is damaged: expected JSON with schema_version: {error!r}") from error
        if version > SCHEMA_VERSION:
            raise SchemaError(
                f"{self.uri} was written with schema version {version}; this Nightminer knows versions up to "
                f"{SCHEMA_VERSION}. Upgrade Nightminer, or name another --store. Nothing was changed."
            )
        return marker
