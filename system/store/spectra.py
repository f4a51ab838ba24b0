"""The table `spectra`: how far RGB features are from those of another picture, by pair, block, band and comparison."""

from __future__ import annotations

import pyarrow as pa

from system.errors import SchemaError, StoreError
from system.store.location import StoreLocation

SPECTRA = "spectra"


def spectra_schema() -> pa.Schema:
    """One row a pair, block, band and comparison of a run.

    comparison: "infrared" or a control ("shift:4", ...). band: "low" or "high". light: "day" or "night", by the
    corpus's word or, where `is_light_guessed`, from the picture. dx_px, dy_px: where the infrared picture's content
    lies seen from the RGB one's, in pixels of the tower's input; not to be believed unless `is_shift_confident`.
    mse, nmse and cosine (1 - cosine) are of standardised features, mse_raw, ... of raw ones. cka and mmd (squared) are
    estimated without bias, so that single rows scatter. energy_rgb, energy_other: squared norms in the band.
    """
    text = ("run_id", "tower_id", "corpus", "pair_id", "comparison", "band", "light")
    figures = ("mse", "nmse", "cosine", "mse_raw", "nmse_raw", "cosine_raw", "cka", "mmd", "energy_rgb", "energy_other")
    return pa.schema(
        [
            *(pa.field(name, pa.string(), nullable=False) for name in text),
            pa.field("block", pa.int32(), nullable=False),
            pa.field("is_light_guessed", pa.bool_()),
            pa.field("dx_px", pa.float32()),
            pa.field("dy_px", pa.float32()),
            pa.field("is_shift_confident", pa.bool_()),
            *(pa.field(name, pa.float32()) for name in figures),
        ]
    )


def open_spectra(location: StoreLocation) -> None:
    """Make the table where it is missing.

    Raises:
        SchemaError: it has other columns. StoreError: the store cannot be written.
    """
    try:
        if not location.has_table(SPECTRA):
            location.connect().create_table(SPECTRA, schema=spectra_schema())
            return
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{location.uri}: cannot write there: {error}") from error
    actual = location.dataset(SPECTRA).schema
    if actual.names != spectra_schema().names:
        differing = sorted(set(actual.names) ^ set(spectra_schema().names)) or ["their order"]
        raise SchemaError(
            f"{location.uri}: table {SPECTRA!r} does not have the columns of this version; they differ in "
            f"{', '.join(differing)}. Name another --store. Nothing was changed."
        )
