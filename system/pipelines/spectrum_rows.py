"""Rows of the table `spectra`, written to Parquet and to a store while pairs stream by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from system.errors import StoreError
from system.freqkd.spectrum import BANDS, METRICS, PREPARATIONS
from system.pairs.records import Pair
from system.pipelines.spectrum_measure import RELATIONS as RELATION_NAMES
from system.pipelines.spectrum_sums import DISTANCES, RELATIONS
from system.store.commits import commit_appended, write_uncommitted
from system.store.location import StoreLocation
from system.store.spectra import SPECTRA, open_spectra, spectra_schema

_ROWS_AT_A_TIME = 100_000


class SpectraWriter:
    """Writes rows as they come; the store shows none of them before `commit`. Context manager."""

    def __init__(self, location: StoreLocation, parquet: Path) -> None:
        """Raises SchemaError, StoreError: the store cannot take the rows."""
        self._location, self._parquet = location, parquet
        self._unfinished = parquet.with_name(parquet.name + ".part")
        self._waiting: list[pa.Table] = []
        self._fragments: list[str] = []
        open_spectra(location)

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._unfinished, spectra_schema())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._unfinished.unlink(missing_ok=True)

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        if sum(len(part) for part in self._waiting) >= _ROWS_AT_A_TIME:
            self._write()

    def commit(self) -> None:
        """Make everything seen, in one transaction.

        Raises:
            StoreError: the folder or the store cannot be written.
        """
        self._write()
        self._writer.close()
        self._unfinished.replace(self._parquet)
        if self._fragments:
            commit_appended(self._location, SPECTRA, self._fragments)

    def _write(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting = []
        try:
            self._writer.write_table(rows)
        except OSError as error:
            raise StoreError(f"{self._unfinished}: cannot be written: {error}") from error
        self._fragments += write_uncommitted(self._location, SPECTRA, rows)


def pair_rows(
    run: Mapping[str, str],
    pair: Pair,
    row: Mapping[str, Any],
    figures: Mapping[str, np.ndarray],
    blocks: Sequence[int],
    comparisons: Sequence[str],
) -> pa.Table:
    """One row a comparison, block and band of a pair."""
    told = ("light", "is_light_guessed", "dx_px", "dy_px", "is_shift_confident")
    facts = {**run, "corpus": pair.corpus, "pair_id": pair.pair_id, **{key: row[key] for key in told}}
    distances = dict(zip(PREPARATIONS, figures[DISTANCES], strict=True))
    rows = []
    for k, comparison in enumerate(comparisons):
        for n, block in enumerate(blocks):
            for b, band in enumerate(BANDS):
                relations = dict(zip(RELATION_NAMES, figures[RELATIONS][k, n, b].tolist(), strict=True))
                own = relations["hsic_rgb"] * relations["hsic_other"]
                rows.append(
                    {
                        **facts,
                        "comparison": comparison,
                        "block": block,
                        "band": band,
                        **dict(zip(METRICS, distances["standardised"][k, n, b].tolist(), strict=True)),
                        **{f"{m}_raw": float(v) for m, v in zip(METRICS, distances["raw"][k, n, b], strict=True)},
                        "cka": relations["hsic"] / own**0.5 if own > 0 else None,
                        **{key: relations[key] for key in ("mmd", "energy_rgb", "energy_other")},
                    }
                )
    return pa.Table.from_pylist(rows, schema=spectra_schema())
