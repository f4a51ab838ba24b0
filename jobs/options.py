"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Logs = Annotated[list[str], typer.Option(help="Folder, file or URI (s3://...) with logs. May be repeated.")]
Tower = Annotated[str, typer.Option(help="`packaged`, `open_clip:NAME/PRETRAINED` or `transformers:NAME_OR_PATH`.")]
Taxonomy = Annotated[str | None, typer.Option(help="TOML file with other tags than the 20 of ours.")]
Labels = Annotated[
    str | None, typer.Option(help="Table of jobs/label_scenes.py; without it, scenes are labelled by --rules.")
]
Rules = Annotated[str | None, typer.Option(help="TOML file of label rules in place of ours.")]
Cache = Annotated[str, typer.Option(help="Folder or URI for the tower's features, seen by every worker.")]
WindowS = Annotated[float, typer.Option(help="Length of a scene window, in seconds.")]
StrideS = Annotated[float | None, typer.Option(help="From window to window; the length, if not given.")]
KeyframeHz = Annotated[float, typer.Option(help="At most so many pictures a second and camera are used.")]
TestShare = Annotated[float, typer.Option(help="Of the scenes, kept for tests; 0 where you test on other logs.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training scenes, at most.")]
Patience = Annotated[int, typer.Option(help="End after so many epochs without a lower validation loss.")]
BatchSize = Annotated[int, typer.Option(help="Scenes of one step, over all workers together.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate of AdamW.")]
WeightDecay = Annotated[float, typer.Option(help="Weight decay of AdamW.")]
HiddenCells = Annotated[float, typer.Option(help="Share of bird's-eye cells hidden in a training step.")]
Seed = Annotated[int, typer.Option(help="Of the order of the scenes and of the hidden cells.")]
Workers = Annotated[int, typer.Option(min=1, help="Ray Train workers; the result does not depend on it.")]
Threads = Annotated[int, typer.Option("--worker-threads", min=1, help="CPUs of each of them.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Give every worker a GPU.")]
