"""Where RGB and infrared differ in the spectrum of a tower's features, over a corpus of any size.

A few kilobytes a pair reach the driver, are added to sums of fixed size and written out: pixels and features stay in
the workers, and memory does not grow with the corpus, but for the pairs' names.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from system.backbones.vit import load_vit, refuse_blocks, vit_facts, vit_hash
from system.config import FrozenConfig
from system.errors import ConfigError, DataError, ReconcileError
from system.freqkd.controls import DEFAULT_CONTROLS, Control
from system.freqkd.spectrum import METRICS, radial_bands
from system.pairs.pixels import InfraredMapping
from system.pairs.registry import open_pairs
from system.pipelines.config import PoolConfig
from system.pipelines.resources import connect_to_ray, size_cluster_pool
from system.pipelines.spectrum_gather import GatheredPairs
from system.pipelines.spectrum_rows import SpectraWriter, pair_rows
from system.pipelines.spectrum_stream import MeasureSettings, stream_measured
from system.report.console import ConsoleProgress
from system.report.spectrum import render_spectrum
from system.store.location import StoreLocation
from system.store.runs import git_commit, new_run_id


class SpectrumConfig(FrozenConfig):
    """An analysis.

    blocks: counted from 0; all, if None. controls: see `system.freqkd.controls`. max_pairs: evenly spaced ones of more.
    draws: of the bootstrap. max_bad_share: of the pairs, which may be unreadable.
    """

    pairs: tuple[str, ...] = Field(min_length=1)
    reader: str = "auto"
    tower: str = "dinov2-packaged"
    blocks: tuple[int, ...] | None = Field(default=None, min_length=1)
    height: int = Field(default=238, ge=1, le=8192)
    width: int = Field(default=322, ge=1, le=8192)
    controls: tuple[str, ...] = DEFAULT_CONTROLS
    mapping: InfraredMapping = InfraredMapping()
    max_pairs: int | None = Field(default=None, ge=2)
    examples: int = Field(default=3, ge=0, le=20)
    draws: int = Field(default=500, ge=20, le=10_000)
    seed: int = Field(default=0, ge=0)
    batch_pairs: int = Field(default=2, ge=1, le=256)
    max_bad_share: float = Field(default=0.2, ge=0, le=1)
    store: str | None = None
    pool: PoolConfig = PoolConfig()


def analyze_spectrum(config: SpectrumConfig, out: Path, progress: ConsoleProgress) -> dict[str, Any]:
    """Measure, and write spectrum.json, spectra.parquet, skipped.jsonl, report.html and the table `spectra`.

    Returns:
        The figures that the job prints.
    Raises:
        ConfigError: a wrong option. FormatError, DataError: no two pairs can be read. StoreError: the store cannot be
        written. ReconcileError: too many pairs could not be read; everything was written.
    """
    started_s = time.monotonic()
    controls = tuple(Control.parse(name) for name in config.controls)
    if len(set(config.controls)) < len(config.controls):
        raise ConfigError(f"--controls {','.join(config.controls)}: one is named twice")
    corpora = [open_pairs(uri, config.reader) for uri in config.pairs]
    listed = [pair for corpus in corpora for pair in corpus.pairs]
    left_out = Counter(fault.code for corpus in corpora for fault in corpus.faults if fault.is_skipped)
    left_out["unmatched"] += sum(len(corpus.unmatched) for corpus in corpora)
    if len(listed) < 2:
        raise DataError("too_few_pairs", f"{', '.join(config.pairs)}: {len(listed)} pair; expected at least 2")
    chosen = _evenly(listed, config.max_pairs)
    tower = _look_at_tower(config)
    location = StoreLocation.parse(config.store or str(out))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    progress.expect(len(chosen))
    progress.phase("starting Ray and the tower")
    connect_to_ray()
    pool = size_cluster_pool(config.pool)
    settings = MeasureSettings(
        tower=config.tower,
        size=(config.height, config.width),
        blocks=tower.blocks,
        controls=controls,
        example_block=tower.blocks[len(tower.blocks) * 3 // 4],
        mapping=config.mapping,
        examples=tuple(number for _, (number, _) in _evenly(chosen, config.examples)) if config.examples else (),
        threads=pool.threads,
        use_gpu=pool.gpus_per_actor > 0,
    )
    run = {"run_id": new_run_id(), "tower_id": tower.tower_id}
    gathered = GatheredPairs(chosen, settings, tower.patch, config.draws, config.seed)
    with SpectraWriter(location, out / "spectra.parquet") as writer, (out / "skipped.jsonl").open("w") as skipped:
        for row in stream_measured(chosen, settings, pool, config.batch_pairs):
            pair = gathered.pairs[row["number"]]
            if row["code"] is not None:
                gathered.skip(row["code"])
                named = {"corpus": pair.corpus, "pair_id": pair.pair_id, "code": row["code"], "message": row["message"]}
                skipped.write(json.dumps(named) + "\n")
            else:
                writer.add(pair_rows(run, pair, row, gathered.add(row), settings.blocks, gathered.comparisons))
            progress.advanced(int(row["code"] is None), int(row["code"] is not None), 2 + len(controls))
        if gathered.sums.pairs < 2:
            raise DataError(
                "too_few_pairs",
                f"{', '.join(config.pairs)}: {gathered.sums.pairs} of {len(chosen)} pairs could be read; expected at "
                f"least 2. See {out / 'skipped.jsonl'}",
            )
        progress.phase("writing")
        writer.commit()
    result = {
        **gathered.summary(),
        **run,
        "tower": config.tower,
        "corpora": {corpus.name: len(corpus.pairs) for corpus in corpora},
        "listed": len(listed),
        "asked": len(chosen),
        "skipped": dict(gathered.skipped),
        "left_out_when_listing": {code: count for code, count in left_out.items() if count},
        "guessed_light": gathered.guessed_light,
        "images": gathered.sums.pairs * (2 + len(controls)),
        "seconds": round(time.monotonic() - started_s, 1),
        "config": config.model_dump(mode="json"),
        "patch": tower.patch,
        "commit": git_commit(),
    }
    (out / "spectrum.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    examples = sorted(gathered.examples, key=lambda example: example.title)
    (out / "report.html").write_text(render_spectrum(result, examples, settings.example_block), "utf-8")
    _refuse_if_many_bad(config, len(chosen), gathered.skipped)
    return _figures(result, out, location)


def _figures(result: Mapping[str, Any], out: Path, location: StoreLocation) -> dict[str, Any]:
    kept = ("pairs", "blocks", "ratio_mse", "ratio_nmse", "ratio_cosine", "agreement", "skipped", "images", "seconds")
    return {
        **{key: result[key] for key in kept},
        "controls": {
            name: {metric: ratios[metric]["value"] for metric in METRICS}
            for name, ratios in result["ratios"].items()
            if name != "infrared"
        },
        "run_id": result["run_id"],
        "report": str(out / "report.html"),
        "json": str(out / "spectrum.json"),
        "table": location.table_uri("spectra"),
    }


def _evenly(items: Sequence[Any], at_most: int | None) -> list[tuple[int, Any]]:
    """(place, item) of all, or of so many evenly spaced ones."""
    if at_most is None or len(items) <= at_most:
        places = list(range(len(items)))
    else:
        places = [int((k + 0.5) * len(items) / at_most) for k in range(at_most)]
    return [(place, items[place]) for place in places]


@dataclass(frozen=True)
class _Tower:
    """What the driver has to know of a tower. patch: its side in pixels."""

    tower_id: str
    patch: int
    blocks: tuple[int, ...]


def _look_at_tower(config: SpectrumConfig) -> _Tower:
    """The tower's facts, and whether the options suit it.

    Raises:
        ConfigError: no such tower, a block that it lacks, or a size that does not suit it. ModelError: no weights.
    """
    model = load_vit(config.tower)
    facts = vit_facts(model)
    blocks = config.blocks or tuple(range(facts.num_blocks))
    refuse_blocks(model, blocks)
    if len(set(blocks)) < len(blocks):
        raise ConfigError(f"--blocks {','.join(map(str, blocks))}: one is named twice")
    if config.height % facts.patch or config.width % facts.patch:
        nearest = [max(1, round(side / facts.patch)) * facts.patch for side in (config.height, config.width)]
        raise ConfigError(
            f"--height {config.height} --width {config.width}: expected multiples of the patch of {facts.patch} "
            f"pixels, e.g. {nearest[0]} and {nearest[1]}"
        )
    radial_bands(config.height // facts.patch, config.width // facts.patch)
    return _Tower(vit_hash(model), facts.patch, blocks)


def _refuse_if_many_bad(config: SpectrumConfig, asked: int, skipped: Mapping[str, int]) -> None:
    bad = sum(skipped.values())
    if bad > config.max_bad_share * asked:
        codes = ", ".join(f"{code} {count}" for code, count in sorted(skipped.items()))
        raise ReconcileError(
            f"{bad} of {asked} pairs could not be read ({codes}), more than --max-bad-share {config.max_bad_share:g}; "
            "what the others tell was written"
        )
