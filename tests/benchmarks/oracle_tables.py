"""Values that other people's programs computed on the real logs, and those logs."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

from system.logs.plain import PlainReader
from system.logs.reader import BadLog
from system.records import DrivingLog


def rows_by_log(path: Path, max_logs: int | None = None) -> dict[tuple[str, str], list[dict[str, str]]]:
    """{(data set, log): rows} of a CSV table, gzipped or not; the data set is "" where the table does not say."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    by_log: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in csv.DictReader(text.splitlines()):
        by_log[row.get("dataset", ""), row["log_id"]].append(row)
    if max_logs is None:
        return by_log
    datasets: dict[str, int] = defaultdict(int)
    chosen = {}
    for key, rows in by_log.items():
        datasets[key[0]] += 1
        if datasets[key[0]] <= max_logs:
            chosen[key] = rows
    return chosen


@lru_cache(maxsize=8)
def log_of(root: Path, dataset: str, log_id: str) -> DrivingLog | None:
    """A log that has ego and agents, or None where it is not staged.

    Raises:
        AssertionError: it cannot be read.
    """
    folder = root / "driving" / dataset / log_id
    if not folder.is_dir():
        return None
    ref = next(PlainReader().list_logs(str(folder)))
    assert not isinstance(ref, BadLog), ref
    log = PlainReader().read_log(ref)
    assert log.ego is not None and log.agents is not None, f"{folder}: no ego or no agents"
    return log
