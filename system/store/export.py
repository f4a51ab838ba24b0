"""Sets of scenes as files that other tools read: tables of rows, and archives of pictures with their tags."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from system.errors import ConfigError
from system.store.location import StoreLocation
from system.store.pictures import StoredPicture, read_pictures
from system.store.sets import SavedSet
from system.store.snapshot import Snapshot

COLUMNS = (
    "scene_id", "source", "log_id", "t_start_ns", "t_end_ns", "cameras", "num_pictures", "flags", "description",
    "truth_tags", "tags", "risk", "risk_source", "physics_risk", "min_ttc_s", "ambiguity", "rarity", "hardness",
    "risk_rank", "ambiguity_rank", "rarity_rank", "ranked_among", "model_id", "run_id",
)  # fmt: skip
# A row, one of its pictures, and the name of that picture's file.
NamedPictures = Iterator[tuple[dict[str, Any], StoredPicture, str]]
# What a spreadsheet would take for a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_PICTURES_AT_ONCE = 32
_FIFTYONE_COLUMNS = (
    "filepath", "tags", "scene_id", "source", "log_id", "camera", "t_ns", "description", "risk", "hardness",
)  # fmt: skip
_FIFTYONE_README = """Unzip, then:

    import fiftyone as fo

    number = lambda text: float(text) if text else None
    dataset = fo.Dataset.from_dir(
        dataset_dir="THIS FOLDER",
        dataset_type=fo.types.CSVDataset,
        fields={
            "tags": lambda text: text.split(",") if text else [],
            "scene_id": None, "source": None, "log_id": None, "camera": None, "description": None,
            "t_ns": int, "risk": number, "hardness": number,
        },
    )
"""


def set_rows(location: StoreLocation, saved: SavedSet, columns: Sequence[str] = COLUMNS) -> list[dict[str, Any]]:
    """Rows of a set in its order: of the version that it was saved from, or of the newest where that one was removed.

    Raises:
        ConfigError: a scene of the set is not in the store any more.
    """
    rows = Snapshot.kept(location, saved.version).rows(saved.scene_ids, saved.model_id, columns)
    if len(rows) < len(saved.scene_ids):
        gone = len(saved.scene_ids) - len(rows)
        raise ConfigError(f"{gone} of the {len(saved.scene_ids)} scenes of this set are not in the store any more")
    return rows


def write_parquet(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, file: IO[bytes]) -> None:
    """A row a scene, with the store's own types."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file)


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], file: IO[bytes]) -> None:
    """A row a scene; lists are joined by `;`. Text that a spreadsheet would run as a formula gets a quote before it."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in columns])
    text.flush()
    text.detach()


def write_coco(rows: Sequence[dict[str, Any]], pictures: NamedPictures, saved: SavedSet, file: IO[bytes]) -> None:
    """A zip of `images/` and `annotations.json`.

    `annotations` is empty: what detectors found is in pixels of the original pictures, whose sizes a store does not
    keep, and a box around a whole picture would teach a detector nonsense. Tags are `categories`, and each image names
    its own in `tags` and `category_ids`.
    """
    names = sorted({tag for row in rows for tag in row["tags"] or ()})
    number = {name: k + 1 for k, name in enumerate(names)}
    images: list[dict[str, Any]] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for row, picture, name in pictures:
            archive.writestr(f"images/{name}", picture.jpeg)
            tags = row["tags"] or []
            images.append(
                {
                    "id": len(images) + 1,
                    "file_name": f"images/{name}",
                    "width": picture.width,
                    "height": picture.height,
                    "scene_id": row["scene_id"],
                    "log_id": row["log_id"],
                    "camera": picture.camera,
                    "t_ns": picture.t_ns,
                    "tags": tags,
                    "category_ids": [number[tag] for tag in tags],
                    "risk": row["risk"],
                    "hardness": row["hardness"],
                }
            )
        content = {
            "info": {"description": saved.name, "version": saved.set_id, "contributor": "nightminer"},
            "licenses": [],
            "categories": [{"id": k, "name": name, "supercategory": "scene_tag"} for name, k in number.items()],
            "images": images,
            "annotations": [],
        }
        archive.writestr("annotations.json", json.dumps(content, indent=1))


def write_fiftyone(pictures: NamedPictures, file: IO[bytes]) -> None:
    """A zip with `data/` and `labels.csv`, which FiftyOne loads as a CSVDataset; `README.txt` holds the call.

    FiftyOne's own format for classifications takes one label a picture, and a scene has several tags.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_FIFTYONE_COLUMNS)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for row, picture, name in pictures:
            archive.writestr(f"data/{name}", picture.jpeg)
            values = row | {
                "filepath": name,
                "tags": ",".join(row["tags"] or ()),
                "camera": picture.camera,
                "t_ns": picture.t_ns,
            }
            writer.writerow([_cell(values[column]) for column in _FIFTYONE_COLUMNS])
        archive.writestr("labels.csv", text.getvalue())
        archive.writestr("README.txt", _FIFTYONE_README)


def named_pictures(location: StoreLocation, rows: Sequence[dict[str, Any]], check: Callable[[], None]) -> NamedPictures:
    """Pictures of all rows with names made of ids and numbers, never of what a log calls its cameras.

    Args:
        rows: with their `picture_batch`. check: called once a row; what it raises ends the reading.
    Raises:
        ConfigError: a scene was mined with pictures, and none of them is in the store.
    """
    for start in range(0, len(rows), _PICTURES_AT_ONCE):
        part = rows[start : start + _PICTURES_AT_ONCE]
        found = read_pictures(location, {row["scene_id"]: row["picture_batch"] for row in part})
        for row in part:
            check()
            pictures = found[row["scene_id"]]
            if row["num_pictures"] and not pictures:
                told = f"scene {row['scene_id']} was mined with {row['num_pictures']} pictures; the store holds none"
                raise ConfigError(f"{told} of them. Take the set as parquet or csv, or save it without this scene")
            for k, picture in enumerate(pictures):
                yield row, picture, f"{row['scene_id']}-{k:02d}.jpg"


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = ";".join(map(str, value))
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value
