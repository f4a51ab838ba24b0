"""Upgrade a head of a SceneMiner, or add one of your own, without moving any other head by a bit."""

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
    base: Annotated[str, typer.Option(help="Folder of the model to upgrade; it is not changed.")],
    out: Annotated[Path, typer.Option(help="Folder for the upgraded model; must be new.")],
    head: Annotated[
        str | None, typer.Option(help="`tags`, `embedding`, `risk`, `forecast`, or a head of your own in the base.")
    ] = None,
    own_head: Annotated[
        str | None, typer.Option(help="TOML file with `name` and `tags` of a new head of your own.")
    ] = None,
    own_labels: Annotated[
        str | None, typer.Option(help="Labels for it: CSV with scene_id (or log id), tag, value (1 or 0).")
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="Tag that is not to be trained. May be repeated.")] = None,
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
    learning_rate: options.LearningRate = 3e-4,
    weight_decay: options.WeightDecay = 0.05,
    hidden_cells: options.HiddenCells = 0.5,
    seed: options.Seed = 0,
    workers: options.Workers = 1,
    threads: options.Threads = 1,
    gpu: options.Gpu = False,
) -> None:
    """Give one head a new reader of about 102k parameters and train nothing else.

    Before training, the autograd graph shows that no other head depends on what is trained. Afterwards every other head
    answers a probe again, in float32, bfloat16 and float16, in batches of 1 and 16, by 1 and 2 workers; the SHA-256 of
    its answers must be what it was. Only then is the model published, with a certificate. The same command after a kill
    goes on where it was.

    The last line of stdout is one JSON object: checkpoint, model_id, head, trained_parameters, siblings_identical,
    certificate, scenes, best_epoch, epochs, figures.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input or nothing to learn; 5 the model; 7 another head moved, and
    nothing was published.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.errors import ConfigError
        from system.training.config import TrainConfig
        from system.training.examples import SourceConfig
        from system.training.finetune import UpgradeConfig, finetune_head, load_own_head

        new = load_own_head(own_head) if own_head else None
        if new is None and head is None:
            raise ConfigError("--head or --own-head is missing: which head is to be trained?")
        if new is not None and head not in (None, new.name):
            raise ConfigError(
                f"--head {head} and --own-head {own_head}, which is called {new.name!r}: give one of them"
            )
        source = SourceConfig.parse(
            {
                "logs": tuple(logs),
                "tower": tower,
                "labels": labels,
                "rules": rules,
                "own_labels": own_labels,
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
        upgrade = UpgradeConfig(
            base=base, head=new.name if new else str(head), own_head=new, leave_out=tuple(leave_out or ())
        )
        known = load_taxonomy(taxonomy) if taxonomy else None
        with ConsoleProgress("reading") as progress:
            result = finetune_head(source, upgrade, known, config, out, progress)
        leave_ray()
        print_figures(asdict(result))


if __name__ == "__main__":
    app()
