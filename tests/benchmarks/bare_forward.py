"""Images a second of the model alone, over scenes that are decoded and in memory. Prints one JSON object."""

from __future__ import annotations

import argparse
import json
import time

import pyarrow as pa
import torch

from system.backbones.loading import load_tower
from system.backbones.runtime import choose_runtime
from system.miner.miner_config import SceneMinerConfig
from system.miner.model import SceneMiner
from system.miner.taxonomy import load_taxonomy
from system.pipelines.config import MineConfig
from system.pipelines.forward import scene_batch
from system.pipelines.plan import plan_mining
from system.pipelines.reading import ReadSettings, read_chunk
from system.store.ids import IdSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", required=True)
    parser.add_argument("--tower", default="packaged")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tower = load_tower(arguments.tower, choose_runtime(arguments.threads, False))
    miner = SceneMiner.untrained(tower, SceneMinerConfig(), load_taxonomy(None)).eval()
    config = MineConfig(logs=(arguments.logs,), store="unused", limit=16)
    plan = plan_mining(config, IdSet(), IdSet())
    settings = ReadSettings(
        tower.input_size, config.windows, config.limits, config.thumbnails, config.risk, config.kinematics
    )
    rows = pa.concat_tables([read_chunk(chunk, settings, None) for chunk in plan.chunks])
    size = config.pool.forward_scenes
    batches = [scene_batch(rows.slice(k, size), tower.input_size) for k in range(0, len(rows), size)]
    miner(batches[0])
    images, started_s = 0, time.perf_counter()
    while time.perf_counter() - started_s < arguments.seconds:
        for batch in batches:
            miner(batch)
            images += len(batch.images_MHWC)
    print(json.dumps({"images_per_s": images / (time.perf_counter() - started_s), "threads": arguments.threads}))


if __name__ == "__main__":
    main()
