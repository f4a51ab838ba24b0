"""Open a store for writing: make what is missing, refuse what does not fit."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from system.errors import SchemaError, StoreError, reason_of, storage_errors
from system.store.commits import append_rows
from system.store.location import MARKER, SCHEMA_VERSION, StoreLocation
from system.store.schema import (
    MODELS,
    PICTURES,
    QUARANTINE,
    RUNS,
    SCENES,
    models_schema,
    pictures_schema,
    quarantine_schema,
    runs_schema,
    scenes_schema,
)


@dataclass(frozen=True)
class ModelRow:
    """A model as the store remembers it; columns of the table `models`."""

    model_id: str
    tower: str
    tower_id: str
    model_path: str | None
    embedding_dim: int
    tag_names: tuple[str, ...]
    config: str


def check_model(location: StoreLocation, model: ModelRow) -> None:
    """Whether a model's rows may go into this store. Reads only; a store that is not there yet takes any.

    Raises:
        SchemaError: written by a newer schema, or with another tower, whose embeddings cannot be compared.
    """
    marker = location.marker()
    if marker is None:
        return
    if marker.get("tower_id") != model.tower_id:
        raise SchemaError(
            f"{location.uri} holds embeddings of the tower {marker.get('tower')!r} ({marker.get('tower_id')}); this "
            f"job would add those of {model.tower!r} ({model.tower_id}), and the two cannot be compared. Name another "
            "--store, or use the tower of this one. Nothing was changed."
        )


def open_for_writing(location: StoreLocation, model: ModelRow) -> None:
    """Make the tables where they are missing and add the model to `models`. Call with the lease held.

    Raises:
        SchemaError: as `check_model`, or a table whose columns are not ours.
        StoreError: the store is read-only, full or not reachable.
    """
    check_model(location, model)
    schemas = {
        SCENES: scenes_schema(model.embedding_dim),
        PICTURES: pictures_schema(),
        QUARANTINE: quarantine_schema(),
        RUNS: runs_schema(),
        MODELS: models_schema(),
    }
    try:
        for name, schema in schemas.items():
            if not location.has_table(name):
                location.connect().create_table(name, schema=schema)
                continue
            actual = location.dataset(name).schema
            if differing := _differing_columns(schema, actual):
                raise SchemaError(
                    f"{location.uri}: table {name!r} does not have the columns of schema version {SCHEMA_VERSION}; "
                    f"they differ in {', '.join(differing)}. Name another --store. Nothing was changed."
                )
        if not location.dataset(MODELS).count_rows(filter=f"model_id = '{model.model_id}'"):
            append_rows(location, MODELS, pa.Table.from_pylist([asdict(model)], schema=models_schema()))
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot write there: {error}") from error
    if location.marker() is None:
        marker = {
            "schema_version": SCHEMA_VERSION,
            "tower": model.tower,
            "tower_id": model.tower_id,
            "embedding_dim": model.embedding_dim,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        location.write_text(MARKER, json.dumps(marker, indent=2))


def _differing_columns(expected: pa.Schema, actual: pa.Schema) -> list[str]:
    """Columns that one side lacks or has with another type."""
    differing = set(expected.names) ^ set(actual.names)
    for field in expected:
        # A blob column is read back as the descriptor of its blobs.
        is_blob = b"lance-encoding:blob" in (field.metadata or {})
        if field.name in actual.names and not is_blob and actual.field(field.name).type != field.type:
            differing.add(field.name)
    return sorted(differing)


def read_models(location: StoreLocation) -> list[dict[str, Any]]:
    """All models whose rows the store holds, oldest first."""
    return location.dataset(MODELS).to_table().to_pylist()


def table_names(location: StoreLocation) -> list[str]:
    """Every table that the store has.

    Raises:
        StoreError: there is no store, or it cannot be listed.
    """
    if location.marker() is None:
        raise StoreError(f"{location.uri}: no Nightminer store is here; jobs/mine_fleet.py --store makes one")
    fs, root = location.filesystem()
    try:
        names = [str(path).rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)]
    except storage_errors() as error:
        raise StoreError(f"{location.uri}: cannot be listed: {reason_of(error)}") from error
    return sorted(name.removesuffix(".lance") for name in names if name.endswith(".lance"))
