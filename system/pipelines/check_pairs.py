"""Look at every pair of some corpora on Ray Data, and gather what is found.

The driver holds names and a hundred bytes a pair; pictures stay in the tasks, but for the few of a contact sheet.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, DataError, storage_errors
from system.pairs.examine import Findings, examine_pair
from system.pairs.fingerprint import Duplicate, count_groups, find_duplicates
from system.pairs.pixels import InfraredMapping, PixelLimits, read_pair
from system.pairs.records import Pair, PairCorpus
from system.pairs.registry import open_pairs
from system.pipelines.resources import connect_to_ray
from system.report.console import ConsoleProgress
from system.report.contact_sheet import SheetCell, draw_sheet, draw_strip
from system.report.pairs_summary import Seen, sheet_lines, sheet_title, summarise

_CHUNK_PAIRS = 16
SCHEMA = pa.schema(
    [
        pa.field("corpus", pa.string()),
        pa.field("pair_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("rgb_uri", pa.string()),
        pa.field("infrared_uri", pa.string()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
        pa.field("rgb_height", pa.int32()),
        pa.field("rgb_width", pa.int32()),
        pa.field("infrared_height", pa.int32()),
        pa.field("infrared_width", pa.int32()),
        pa.field("infrared_bits", pa.int32()),
        pa.field("luminance", pa.float32()),
        pa.field("light", pa.string()),
        pa.field("light_by", pa.string()),
        pa.field("alignment", pa.string()),
        pa.field("dx_px", pa.float32()),
        pa.field("dy_px", pa.float32()),
        pa.field("confidence", pa.float32()),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("boxes", pa.int32()),
    ]
)


class CheckPairsConfig(FrozenConfig):
    """What is checked. sheet_pairs: on each corpus's contact sheet, 0 for none."""

    pairs: tuple[str, ...] = Field(min_length=1)
    reader: str = "auto"
    mapping: InfraredMapping = InfraredMapping()
    limits: PixelLimits = PixelLimits()
    sheet_pairs: int = Field(default=24, ge=0, le=400)


@dataclass(frozen=True)
class _Task:
    """Of one corpus, some pairs by their places."""

    corpus: int
    places: tuple[int, ...]
    pairs: tuple[Pair, ...]


def check_pairs(config: CheckPairsConfig, out: Path, progress: ConsoleProgress) -> dict[str, Any]:
    """Check some corpora; writes pairs.parquet, faults.jsonl and a contact sheet for each into a folder.

    Returns:
        The figures that the job prints.
    Raises:
        ConfigError, FormatError, DataError: a corpus cannot be listed, or the folder not be written.
    """
    corpora = [open_pairs(uri, config.reader) for uri in config.pairs]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    progress.expect(sum(len(corpus.pairs) for corpus in corpora))
    progress.phase("starting Ray")
    connect_to_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    seen = [Seen(len(corpus.pairs)) for corpus in corpora]
    unreadable: list[dict[str, str]] = []
    with pq.ParquetWriter(out / "pairs.parquet", SCHEMA) as table:
        for number, places, findings in _examined(corpora, config):
            corpus = corpora[number]
            rows = []
            for place, found in zip(places, findings, strict=True):
                seen[number].add(place, found)
                rows.append(_row(corpus, corpus.pairs[place], found))
                if found.code:
                    unreadable.append({key: rows[-1][key] for key in ("corpus", "pair_id", "code", "message")})
            table.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            bad = sum(bool(found.code) for found in findings)
            progress.advanced(len(rows) - bad, bad, 2 * len(rows))
    _write_faults(out / "faults.jsonl", corpora, unreadable)
    progress.phase("looking for copies")
    duplicates, where = _duplicates(seen)
    figures = summarise(config.pairs, corpora, seen)
    figures["duplicates"] = _told(duplicates, where, corpora)
    figures["sheets"] = []
    if config.sheet_pairs:
        progress.phase("drawing contact sheets")
        drawn = [_sheet(k, corpus, seen[k], config, out, figures["corpora"][k]) for k, corpus in enumerate(corpora)]
        figures["sheets"] = [path for path in drawn if path]
    (out / "summary.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return figures


def _write_faults(path: Path, corpora: Sequence[PairCorpus], unreadable: Sequence[Mapping[str, str]]) -> None:
    """One JSON object a line: what listing found, pictures without a partner, pairs whose pixels cannot be used."""
    with path.open("w", encoding="utf-8") as opened:
        for corpus in corpora:
            for fault in corpus.faults:
                opened.write(json.dumps({"corpus": corpus.name, **vars(fault)}) + "\n")
            for name in corpus.unmatched:
                opened.write(json.dumps({"corpus": corpus.name, "code": "unmatched", "message": name}) + "\n")
        for told in sorted(unreadable, key=lambda told: (told["corpus"], told["pair_id"])):
            opened.write(json.dumps(told) + "\n")


def _examined(
    corpora: Sequence[PairCorpus], config: CheckPairsConfig
) -> Iterator[tuple[int, Sequence[int], Sequence[Findings]]]:
    """(corpus, places, findings) of every pair, in any order."""
    tasks = [
        _Task(k, tuple(range(start, start + len(part))), part)
        for k, corpus in enumerate(corpora)
        for start in range(0, len(corpus.pairs), _CHUNK_PAIRS)
        for part in [corpus.pairs[start : start + _CHUNK_PAIRS]]
    ]
    source: Any = ray.data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    examined = source.map_batches(
        _examine,
        fn_kwargs={"mapping": config.mapping, "limits": config.limits},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
    )
    for batch in examined.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for answer in batch["answer"].to_pylist():
            yield pickle.loads(answer)  # noqa: S301 - written by our own tasks


def _examine(batch: pa.Table, mapping: InfraredMapping, limits: PixelLimits) -> pa.Table:
    import cv2

    # The task has one CPU; its neighbours have the others.
    cv2.setNumThreads(1)
    answers = []
    for packed in batch["task"].to_pylist():
        task: _Task = pickle.loads(packed)  # noqa: S301 - written by our own driver
        findings = tuple(examine_pair(pair, mapping, limits) for pair in task.pairs)
        answers.append(pickle.dumps((task.corpus, task.places, findings)))
    return pa.table({"answer": pa.array(answers, pa.binary())})


def _row(corpus: PairCorpus, pair: Pair, found: Findings) -> dict[str, Any]:
    rgb, infrared, shift = found.rgb_size, found.infrared_size, found.shift
    return {
        "corpus": corpus.name,
        "pair_id": pair.pair_id,
        "split": pair.split,
        "rgb_uri": pair.rgb_uri,
        "infrared_uri": pair.infrared_uri,
        "code": found.code,
        "message": found.message,
        "rgb_height": rgb[0] if rgb else None,
        "rgb_width": rgb[1] if rgb else None,
        "infrared_height": infrared[0] if infrared else None,
        "infrared_width": infrared[1] if infrared else None,
        "infrared_bits": found.infrared_bits,
        "luminance": found.luminance,
        "light": found.light,
        "light_by": found.light_by,
        "alignment": pair.alignment,
        "dx_px": shift.dx_px if shift else None,
        "dy_px": shift.dy_px if shift else None,
        "confidence": shift.confidence if shift else None,
        "notes": list(found.notes),
        "boxes": len(pair.boxes_xyxy),
    }


def _duplicates(seen: Sequence[Seen]) -> tuple[list[Duplicate], list[tuple[int, int]]]:
    """Copies over all corpora together; the second list says which (corpus, place) each number is."""
    places = [(k, place) for k, one in enumerate(seen) for place in np.flatnonzero(one.is_read_N).tolist()]
    hashes = np.concatenate([one.hashes_N2[one.is_read_N] for one in seen])
    digests = np.concatenate([one.digests_N[one.is_read_N] for one in seen])
    return find_duplicates(hashes, digests), places


def _told(
    duplicates: Sequence[Duplicate], places: Sequence[tuple[int, int]], corpora: Sequence[PairCorpus]
) -> dict[str, Any]:
    def side(number: int) -> tuple[str, str, str]:
        corpus = corpora[places[number][0]]
        pair = corpus.pairs[places[number][1]]
        return corpus.name, pair.split, pair.pair_id

    sides = [(side(one.first), side(one.second), one) for one in duplicates]
    across = [(a, b, one) for a, b, one in sides if a[:2] != b[:2]]
    return {
        "exact": sum(one.is_exact for one in duplicates),
        "alike": len(duplicates),
        "groups": count_groups(duplicates),
        "across_splits": len(across),
        "examples": [
            {"first": "/".join(filter(None, a)), "second": "/".join(filter(None, b)), "bits": one.bits}
            for a, b, one in (across or sides)[:5]
        ],
    }


def _sheet(
    number: int, corpus: PairCorpus, seen: Seen, config: CheckPairsConfig, out: Path, figures: dict[str, Any]
) -> str:
    """Draws one corpus's sheet and says where it lies; "" where no pair could be read."""
    chosen = seen.worth_seeing(config.sheet_pairs)
    if not chosen:
        return ""
    draw: Any = ray.remote(num_cpus=1)(_strip)
    strips = ray.get([draw.remote(corpus.pairs[place], config.mapping, config.limits) for place in chosen])
    cells = [
        SheetCell(strip, sheet_lines(corpus.pairs[place], seen, place))
        for place, strip in zip(chosen, strips, strict=True)
        if strip
    ]
    path = out / f"contact_sheet_{number + 1}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', corpus.name)}.jpg"
    path.write_bytes(draw_sheet(sheet_title(corpus, figures, len(cells)), cells))
    return str(path)


def _strip(pair: Pair, mapping: InfraredMapping, limits: PixelLimits) -> bytes:
    try:
        pixels = read_pair(pair, mapping, limits)
    except DataError:
        return b""
    except storage_errors():
        return b""
    return draw_strip(pixels.rgb_HWC, pixels.infrared_HWC, pair.boxes_xyxy, pair.is_ignored)
