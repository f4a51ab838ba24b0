"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from system.errors import ConfigError

if TYPE_CHECKING:
    from system.pairs.mask_set import MaskSource

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

Masks = Annotated[
    str,
    typer.Option(
        help="`own`: label pictures (MFNet, MSRS) or outlines (COCO) of the set; `boxes`: pseudo-masks from its boxes; "
        "or a folder of label pictures."
    ),
]
MaskClasses = Annotated[
    str | None, typer.Option(help="Of a folder of label pictures: names by number, comma-separated, background first.")
]
Pseudo = Annotated[str, typer.Option(help="What made the masks, where nobody drew them: all figures then say so.")]


def names(text: str | None, lower: bool = False) -> tuple[str, ...]:
    """Of an option with commas; none, if it is not given."""
    return tuple((part.lower() if lower else part).strip() for part in text.split(",")) if text else ()


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Of an option with commas.

    Raises:
        ConfigError: something else than whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected whole numbers with commas between them") from error


def mask_source(masks: str, mask_classes: str | None, pseudo: str) -> MaskSource:
    """Of the three options above."""
    from system.pairs.mask_set import MaskSource

    given = {"kind": masks, "classes": names(mask_classes, lower=True), "pseudo": pseudo.strip()}
    return MaskSource.parse(given, "options")
