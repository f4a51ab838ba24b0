"""The stored pictures of scenes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from system.errors import StoreError
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.schema import PICTURES

_AT_ONCE = 256


@dataclass(frozen=True)
class StoredPicture:
    """A small JPEG of one camera at one moment; width and height in pixels."""

    scene_id: str
    camera: str
    t_ns: int
    width: int
    height: int
    jpeg: bytes


def read_pictures(location: StoreLocation, batches: Mapping[str, str | None]) -> dict[str, list[StoredPicture]]:
    """Pictures of the scenes asked for, by scene, in order of time and camera.

    Args:
        batches: `picture_batch` by scene, of the rows that the pictures are shown with. A scene has other pictures in
            another version of the table, and a run that was killed between its two commits leaves some that no row
            names.
    """
    if not batches:
        return {}
    dataset = location.dataset(PICTURES)
    columns = ["picture_batch", "scene_id", "camera", "t_ns", "width", "height"]
    where = SceneFilter(scene_ids=tuple(batches)).to_sql()
    table = dataset.scanner(columns=columns, filter=where, with_row_id=True).to_table()
    rows = [row for row in table.to_pylist() if batches.get(row["scene_id"]) == row["picture_batch"]]
    found: dict[str, list[StoredPicture]] = {scene_id: [] for scene_id in batches}
    if not rows:
        return found
    blobs = dataset.take_blobs("jpeg", ids=[row["_rowid"] for row in rows])
    for row, blob in zip(rows, blobs, strict=True):
        if blob is None:
            raise StoreError(f"{location.uri}: picture of scene {row['scene_id']}, camera {row['camera']}, is empty")
        with blob:
            jpeg = blob.readall()
        picture = StoredPicture(row["scene_id"], row["camera"], row["t_ns"], row["width"], row["height"], jpeg)
        found[row["scene_id"]].append(picture)
    for pictures in found.values():
        pictures.sort(key=lambda p: (p.t_ns, p.camera))
    return found


def all_pictures(location: StoreLocation, scene_ids: Sequence[str] | None) -> Iterator[bytes]:
    """Every JPEG of some scenes, or of all, those that no row names among them."""
    dataset = location.dataset(PICTURES)
    where = None if scene_ids is None else SceneFilter(scene_ids=tuple(scene_ids)).to_sql()
    if scene_ids is not None and not scene_ids:
        return
    scanner = dataset.scanner(columns=["scene_id"], filter=where, with_row_id=True, batch_size=_AT_ONCE)
    for batch in scanner.to_batches():
        if batch.num_rows:
            for blob in dataset.take_blobs("jpeg", ids=batch["_rowid"].to_pylist()):
                if blob is not None:
                    with blob:
                        yield blob.readall()
