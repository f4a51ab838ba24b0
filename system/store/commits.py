"""Two phases: workers write Lance fragments that nobody sees, the driver makes them part of a table.

A fragment that no commit names is an orphan file, not a row. A retried or killed task therefore loses nothing and
repeats nothing; `system.store.maintain` removes the orphans.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata, write_fragments

from system.errors import ConflictError, StoreError
from system.store.location import StoreLocation


def write_uncommitted(location: StoreLocation, table: str, rows: pa.Table) -> list[str]:
    """Write rows as fragments of an existing table without committing them.

    Args:
        rows: cast to the table's schema by the caller.
    Returns:
        JSON of each fragment's metadata: all that has to reach the driver.
    Raises:
        StoreError: the disk is full, the store is read-only or not reachable.
    """
    try:
        fragments = write_fragments(
            rows,
            location.table_uri(table),
            schema=rows.schema,
            mode="append",
            storage_options=location.storage_options(),
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot write {len(rows)} rows of {table!r}: {error}") from error
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def commit_appended(location: StoreLocation, table: str, fragments: Sequence[str]) -> int:
    """Make fragments part of a table, in one transaction.

    Returns:
        The new version.
    Raises:
        StoreError: as `write_uncommitted`; nothing was committed then.
    """
    operation = lance.LanceOperation.Append([FragmentMetadata.from_json(text) for text in fragments])
    return _commit(location, table, operation)


def commit_updated(
    location: StoreLocation, table: str, fragments: Sequence[str], fields: Sequence[int], version: int
) -> int:
    """Replace fragments by versions of themselves with some columns rewritten, in one transaction.

    Args:
        fields: Lance ids of the rewritten columns, as `LanceFragment.update_columns` returns them.
        version: of the table, that the fragments were read from.
    Raises:
        ConflictError: the fragments were compacted meanwhile. StoreError: as `commit_appended`.
    """
    operation = lance.LanceOperation.Update(
        updated_fragments=[FragmentMetadata.from_json(text) for text in fragments], fields_modified=list(fields)
    )
    return _commit(location, table, operation, version)


def append_rows(location: StoreLocation, table: str, rows: pa.Table) -> None:
    """Write and commit a few small rows at once, for the driver's own tables."""
    if len(rows):
        commit_appended(location, table, write_uncommitted(location, table, rows))


def _commit(
    location: StoreLocation, table: str, operation: lance.LanceOperation.BaseOperation, version: int | None = None
) -> int:
    try:
        read_version = location.dataset(table).version if version is None else version
        dataset = lance.LanceDataset.commit(
            location.table_uri(table), operation, read_version=read_version, storage_options=location.storage_options()
        )
    except (OSError, RuntimeError, ValueError) as error:
        kind = ConflictError if "conflict" in str(error).lower() else StoreError
        raise kind(f"{location.uri}: cannot commit to {table!r}, nothing was committed: {error}") from error
    return int(dataset.version)
