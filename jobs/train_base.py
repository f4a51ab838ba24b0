"""Train the base of a SceneMiner: the shared stream with its first risk and forecast heads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from system.logs.windows import WindowConfig
from system.miner.taxonomy import load_taxonomy
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    logs: options.Logs,
    out: Annotated[Path, typer.Option(help="Folder for the model; must be new.")],
    tower: options.Tower = "packaged",
    taxonomy: options.Taxonomy = None,
    labels: options.Labels = None,
    rules: options.Rules = None,
    cache: options.Cache = "out/features",
    test_share: options.TestShare = 0.15,
    window_s: options.WindowS = 4.0,
    stride_s: options.StrideS = None,
    keyframe_hz: options.KeyframeHz = 2.0,
    epochs: options.Epochs = 60,
    patience: options.Patience = 15,
    batch_size: options.BatchSize = 32,
    learning_rate: options.LearningRate = 1e-3,
    weight_decay: options.WeightDecay = 0.05,
    hidden_cells: options.HiddenCells = 0.5,
    seed: options.Seed = 0,
    workers: options.Workers = 1,
    threads: options.Threads = 1,
    gpu: options.Gpu = False,
) -> None:
    """Train the shared stream, a risk head (from the physics of tracks) and a forecast head on a frozen tower.

    The tower's features are computed once and cached. The same command after a kill goes on where it was. The model's
    folder holds safetensors, a model card, learning curves and TensorBoard events. Scenes are split by town, sequence
    or log; the test part is not touched.

    The last line of stdout is one JSON object: checkpoint, model_id, trained_parameters, scenes, best_epoch, epochs,
    figures.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input or nothing to learn; 5 the model.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.training.base import train_base
        from system.training.config import TrainConfig
        from system.training.examples import SourceConfig

        source = SourceConfig.parse(
            {
                "logs": tuple(logs),
                "tower": tower,
                "labels": labels,
                "rules": rules,
                "cache": cache,
                "test_share": test_share,
                "windows": WindowConfig.of_options(window_s, stride_s, keyframe_hz),
            },
            "options",
        )
        config = TrainConfig.parse(
            {
                "epochs": epochs,
                "patience": patience,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "hidden_cells": hidden_cells,
                "seed": seed,
                "workers": workers,
                "threads_per_worker": threads,
                "use_gpu": gpu,
            },
            "options",
        )
        with ConsoleProgress("reading") as progress:
            result = train_base(source, load_taxonomy(taxonomy), config, out, progress)
        leave_ray()
        print_figures(asdict(result))


if __name__ == "__main__":
    app()
