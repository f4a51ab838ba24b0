"""Label the scenes that a night mined."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date

import pyarrow.parquet as pq

from system.labels.rules import LabelRules, load_rules
from system.labels.table import label_table
from system.miner.taxonomy import Taxonomy, load_taxonomy
from system.pipelines.config import MineConfig
from system.pipelines.labelling import label_planned
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.finding import Arrival
from system.pipelines.plan import Listing, plan_mining
from system.store.filters import literals
from system.store.ids import IdSet
from system.store.location import StoreLocation
from system.store.schema import SCENES


def load_label_rules(config: NightlyConfig) -> tuple[Taxonomy, LabelRules]:
    """What labels are made by.

    Raises:
        ConfigError: the rules or the taxonomy are wrong.
    """
    taxonomy = load_taxonomy(config.mine.taxonomy)
    return taxonomy, load_rules(config.labels.rules, taxonomy)


def label_night(
    config: NightlyConfig, location: StoreLocation, night: date, run_ids: Sequence[str], current: Sequence[Arrival]
) -> tuple[str | None, int]:
    """Write the labels of the logs from which a night's runs mined, to labels/night-DATE.parquet of the store.

    Which logs these are the store says, so that a second run of a night writes the same again.

    Returns:
        (where they lie, or None where the night mined nothing; scenes that could not be labelled).
    Raises:
        ConfigError: as `load_label_rules`. StoreError: the labels cannot be written.
    """
    taxonomy, rules = load_label_rules(config)
    where = f"run_id IN ({literals(run_ids)})"
    mined = set()
    for batch in location.dataset(SCENES).scanner(columns=["source", "log_id"], filter=where).to_batches():
        mined |= set(zip(batch["source"].to_pylist(), batch["log_id"].to_pylist(), strict=True))
    refs = [arrival.ref for arrival in current if (arrival.ref.source, arrival.ref.log_id) in mined]
    if not refs:
        return None, 0
    about = MineConfig(logs=config.logs, store=config.store, windows=config.mine.windows)
    plan = plan_mining(about, IdSet(), IdSet(), Listing([], [], refs))
    done = label_planned(plan, config.mine.windows, rules, taxonomy, {})
    buffer = io.BytesIO()
    pq.write_table(label_table(done.rows, taxonomy, rules), buffer)
    return location.write_bytes(f"labels/night-{night}.parquet", buffer.getvalue()), len(done.faults)
