"""Pairs of an epoch, step by step, through Ray Data: always in the same order, however many tasks read them.

Only names travel from the driver; pictures are read and resized by tasks, a bounded number of bytes ahead of whoever
trains, so that a corpus of any size flows through the memory of a small machine. A pair that cannot be read is a row
that says why.
Legend: N pairs, H x W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from system.errors import DataError, storage_errors
from system.pairs.pixels import InfraredMapping, read_pair
from system.pairs.records import Pair
from system.pairs.resize import fit_pair

_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64()),
        pa.field("place", pa.int64()),
        pa.field("pair", pa.int64()),
        pa.field("rgb", pa.large_binary()),
        pa.field("infrared", pa.large_binary()),
        pa.field("problem", pa.string()),
    ]
)
# Of a CPU, for one reading task. Trainers leave at least this much, see `trainer_cpus`.
READ_CPUS = 0.25
_STEPS_OF_A_TASK = 4


@dataclass(frozen=True)
class PairName:
    """What a reading task has to know of a pair. number: in its corpus."""

    number: int
    pair_id: str
    rgb_uri: str
    infrared_uri: str
    crop_rgb: bool = False


@dataclass(frozen=True)
class StreamConfig:
    """size: (height, width) that pairs are resized to. ahead_bytes: pictures read ahead. tasks: that read at once."""

    size: tuple[int, int]
    mapping: InfraredMapping = field(default_factory=InfraredMapping)
    ahead_bytes: int = 256 << 20
    tasks: int = 2


@dataclass(frozen=True, eq=False)
class StepPairs:
    """The readable pairs of one step.

    places: where in the step's batch each stands. numbers: of the pairs in the corpus.
    rgb_NHWC, infrared_NHWC: uint8. problems: {pair number: why it could not be read}.
    """

    step: int
    places: list[int]
    numbers: list[int]
    rgb_NHWC: np.ndarray
    infrared_NHWC: np.ndarray
    problems: dict[int, str]


def stream_steps(
    steps: Sequence[tuple[int, Sequence[tuple[int, PairName]]]], config: StreamConfig
) -> Iterator[StepPairs]:
    """Read the pairs of some steps, in their order.

    Args:
        steps: (step, [(place in the batch, pair)]); a step may have no pair.
    """
    if not steps:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=config.ahead_bytes)
    chunks = [
        json.dumps([[step, [[place, *vars(pair).values()] for place, pair in rows]] for step, rows in part])
        for part in (steps[k : k + _STEPS_OF_A_TASK] for k in range(0, len(steps), _STEPS_OF_A_TASK))
    ]
    source: Any = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks))
    read = source.map_batches(
        _read_chunk,
        fn_kwargs={"config": config},
        batch_size=1,
        batch_format="numpy",
        num_cpus=READ_CPUS,
        compute=ray.data.TaskPoolStrategy(size=config.tasks),
    )
    wanted = iter(steps)
    rows: list[dict[str, Any]] = []
    expected = next(wanted)
    for block in read.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        for row in block.to_pylist():
            while row["step"] != expected[0]:
                yield _gathered(expected[0], rows, config.size)
                rows, expected = [], next(wanted)
            rows.append(row)
    yield _gathered(expected[0], rows, config.size)
    for step, _ in wanted:
        yield _gathered(step, [], config.size)


def trainer_cpus(threads: int) -> float:
    """CPUs that a trainer of so many threads reserves: a little less, so that its reading always finds a place."""
    return threads - READ_CPUS


def _read_chunk(batch: dict[str, np.ndarray], config: StreamConfig) -> Iterator[pa.Table]:
    for step, rows in json.loads(str(batch["chunk"][0])):
        found = [_read(step, place, PairName(*name), config) for place, *name in rows]
        yield pa.Table.from_pylist(found, schema=_SCHEMA)


def _read(step: int, place: int, name: PairName, config: StreamConfig) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "place": place, "pair": name.number, "rgb": None, "infrared": None}
    pair = Pair(name.pair_id, "", name.rgb_uri, name.infrared_uri, crop_rgb=name.crop_rgb)
    try:
        pixels = fit_pair(read_pair(pair, config.mapping), config.size)
    except DataError as error:
        return row | {"problem": f"{name.pair_id}: {error}"}
    except storage_errors() as error:
        return row | {"problem": f"{name.pair_id}: unreadable: {error}"}
    return row | {"rgb": pixels.rgb_HWC.tobytes(), "infrared": pixels.infrared_HWC.tobytes(), "problem": None}


def _gathered(step: int, rows: Sequence[dict[str, Any]], size: tuple[int, int]) -> StepPairs:
    good = [row for row in rows if row["problem"] is None]
    pictures = [
        np.stack([np.frombuffer(row[name], np.uint8).reshape(*size, 3) for row in good])
        if good
        else np.zeros((0, *size, 3), np.uint8)
        for name in ("rgb", "infrared")
    ]
    return StepPairs(
        step=step,
        places=[row["place"] for row in good],
        numbers=[row["pair"] for row in good],
        rgb_NHWC=pictures[0],
        infrared_NHWC=pictures[1],
        problems={row["pair"]: row["problem"] for row in rows if row["problem"] is not None},
    )
