"""The stream of a spectral analysis on Ray Data: tasks read pairs, actors measure them, some kilobytes a pair come out.

Legend: N pairs, H x W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data

from system.errors import DataError, storage_errors
from system.freqkd.controls import Control
from system.pairs.light import light_of_luminance, luminance
from system.pairs.misalignment import estimate_shift
from system.pairs.pixels import InfraredMapping, read_pair
from system.pairs.records import Pair
from system.pairs.resize import fit_pair
from system.pipelines.resources import PoolSize
from system.pipelines.spectrum_sums import CURVES, DISTANCES, RELATIONS

_FACTS = [
    pa.field("number", pa.int64()),
    pa.field("light", pa.string()),
    pa.field("is_light_guessed", pa.bool_()),
    pa.field("dx_px", pa.float32()),
    pa.field("dy_px", pa.float32()),
    pa.field("is_shift_confident", pa.bool_()),
    pa.field("code", pa.string()),
    pa.field("message", pa.string()),
]
_READ_SCHEMA = pa.schema([*_FACTS, pa.field("rgb", pa.large_binary()), pa.field("infrared", pa.large_binary())])
MEASURED = (DISTANCES, RELATIONS, CURVES)
ROW_SCHEMA = pa.schema(
    [
        *_FACTS,
        *(pa.field(name, pa.large_binary()) for name in MEASURED),
        pa.field("pictures", pa.list_(pa.large_binary())),
    ]
)
# Pairs of a reading task: few, so that all read, but not so few that a large corpus is all tasks.
_CHUNK_PAIRS, _MAX_CHUNK_PAIRS, _CHUNKS = 4, 64, 2000
_READ_CPUS = 0.5
_AHEAD_BYTES = 512 << 20


@dataclass(frozen=True)
class MeasureSettings:
    """What workers have to know. examples: numbers of pairs whose band pictures are drawn, at example_block."""

    tower: str
    size: tuple[int, int]
    blocks: tuple[int, ...]
    controls: tuple[Control, ...]
    examples: tuple[int, ...]
    example_block: int
    mapping: InfraredMapping
    threads: int
    use_gpu: bool


def stream_measured(
    pairs: Sequence[tuple[int, Pair]], settings: MeasureSettings, pool: PoolSize, batch_pairs: int
) -> Iterator[dict[str, Any]]:
    """Yield a row of ROW_SCHEMA for each pair, in no order; figures are float32 bytes, None where `code` says why."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=_AHEAD_BYTES)
    size = min(_MAX_CHUNK_PAIRS, max(_CHUNK_PAIRS, len(pairs) // _CHUNKS))
    chunks = [
        json.dumps(
            [
                [n, pair.pair_id, pair.corpus, pair.rgb_uri, pair.infrared_uri, pair.light, pair.crop_rgb]
                for n, pair in pairs[k : k + size]
            ]
        )
        for k in range(0, len(pairs), size)
    ]
    # Ray's own annotations refuse Arrow functions and actors' methods.
    source: Any = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks))
    read = source.map_batches(
        _read_chunk, fn_kwargs={"settings": settings}, batch_size=1, batch_format="numpy", num_cpus=_READ_CPUS
    )
    measured = cast(Any, read).map_batches(
        MeasureActor,
        fn_constructor_kwargs={"settings": settings},
        batch_size=batch_pairs,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.threads,
        num_gpus=pool.gpus_per_actor,
    )
    for batch in measured.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


class MeasureActor:
    """Loads the tower once; each call measures some rows of _READ_SCHEMA."""

    def __init__(self, settings: MeasureSettings) -> None:
        import torch

        from system.backbones.runtime import device_of
        from system.backbones.vit import load_vit, vit_facts
        from system.freqkd.spectrum import radial_bands

        torch.set_num_threads(settings.threads)
        self._settings = settings
        self._model = load_vit(settings.tower).requires_grad_(False).to(device_of(settings.use_gpu))
        patch = vit_facts(self._model).patch
        self._bands = radial_bands(*(side // patch for side in settings.size))

    def __call__(self, rows: pa.Table) -> pa.Table:
        from system.pipelines.spectrum_measure import measure_pairs

        facts = rows.select([field.name for field in _FACTS]).to_pylist()
        answers = [{**fact, **dict.fromkeys(MEASURED), "pictures": None} for fact in facts]
        good = [k for k, fact in enumerate(facts) if fact["code"] is None]
        if good:
            numbers = [facts[k]["number"] for k in good]
            rgb, infrared = (self._pictures(rows[side], good) for side in ("rgb", "infrared"))
            found = measure_pairs(
                self._model, rgb, infrared, numbers, self._settings.blocks, self._settings.controls, self._bands
            )
            for place, k in enumerate(good):
                figures = {name: getattr(found, name)[place] for name in MEASURED}
                if not all(np.isfinite(values).all() for values in figures.values()):
                    answers[k] |= {"code": "not_finite", "message": "its features are not finite"}
                    continue
                answers[k] |= {name: values.tobytes() for name, values in figures.items()}
                if numbers[place] in self._settings.examples:
                    answers[k]["pictures"] = self._drawn(rgb[place], infrared[place])
        return pa.Table.from_pylist(answers, schema=ROW_SCHEMA)

    def _pictures(self, column: pa.ChunkedArray, places: Sequence[int]) -> np.ndarray:
        shape = (*self._settings.size, 3)
        return np.stack([np.frombuffer(column[k].as_buffer(), np.uint8).reshape(shape) for k in places])

    def _drawn(self, rgb_HWC: np.ndarray, infrared_HWC: np.ndarray) -> list[bytes]:
        """JPEGs: RGB, its low and its high band, infrared and its bands."""
        import torch

        from system.freqkd.spectrum import band_maps, prepare, spectrum_of
        from system.pipelines.spectrum_measure import features_of
        from system.report.spectrum_pictures import draw_bands

        pictures = np.stack([rgb_HWC, infrared_HWC])
        with torch.no_grad():
            (features,) = features_of(self._model, pictures, [self._settings.example_block])
            spectrum = spectrum_of(prepare(features, "standardised"))
            maps = [part.cpu().numpy() for part in band_maps(spectrum, self._bands)]
        return draw_bands(pictures, maps)


def _read_chunk(batch: dict[str, np.ndarray], settings: MeasureSettings) -> Iterator[pa.Table]:
    for number, *given in json.loads(str(batch["chunk"][0])):
        pair_id, corpus, rgb_uri, infrared_uri, light, crop_rgb = given
        pair = Pair(pair_id, corpus, rgb_uri, infrared_uri, light=light, crop_rgb=crop_rgb)
        yield pa.Table.from_pylist([{"number": number, **_read(pair, settings)}], schema=_READ_SCHEMA)


def _read(pair: Pair, settings: MeasureSettings) -> dict[str, Any]:
    try:
        pixels = read_pair(pair, settings.mapping)
        # At full resolution, where edges are sharpest.
        shift = estimate_shift(pixels.rgb_HWC, pixels.infrared_HWC)
        fitted = fit_pair(pixels, settings.size)
    except DataError as error:
        return {"code": error.code, "message": error.message}
    except storage_errors() as error:
        return {"code": "unreadable_file", "message": f"{pair.rgb_uri}: {error}"}
    height, width = pixels.infrared_HWC.shape[:2]
    return {
        "light": pair.light or light_of_luminance(luminance(pixels.rgb_HWC)),
        "is_light_guessed": not pair.light,
        "dx_px": shift.dx_px * settings.size[1] / width,
        "dy_px": shift.dy_px * settings.size[0] / height,
        "is_shift_confident": shift.is_confident,
        "rgb": fitted.rgb_HWC.tobytes(),
        "infrared": fitted.infrared_HWC.tobytes(),
    }
