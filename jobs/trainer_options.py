"""Options that the trainers of infrared models share, and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options

if TYPE_CHECKING:
    from system.training.detect import DetectSource
    from system.training.detect_run import DetectRun

Val = Annotated[str | None, typer.Option(help="Judged after each epoch, for the curve; chooses nothing.")]
Split = Annotated[str, typer.Option(help="Parts of a corpus of pairs that are learnt from, as its layout names them.")]
Images = Annotated[
    str | None,
    typer.Option(help="Folder of the COCO files' pictures, if not beside them; `FILE.json::FOLDER` names it too."),
]
Merge = Annotated[float | None, typer.Option(help="Factor of the distilled update; the folder's own, if not given.")]
Frozen = Annotated[
    bool, typer.Option("--frozen/--finetune", help="Leave the backbone as it is, or let it learn slowly.")
]
Width = Annotated[int | None, typer.Option(help="448, if not given.")]
BatchSize = Annotated[int, typer.Option(help="Pictures of one step, over all workers together.")]
BackboneFactor = Annotated[float, typer.Option(help="Of it, for the backbone with --finetune.")]
AnchorWeight = Annotated[
    float, typer.Option(help="With --finetune: weight of the frozen copy that sees the same picture.")
]
Augment = Annotated[str, typer.Option(help="`none`, `flip`, or `full`: gain, offset, noise, blur, scale.")]
Precision = Annotated[str, typer.Option(help="`fp32`, `bf16` or `fp16`.")]
InfraredRange = Annotated[
    str | None, typer.Option(help="16 bits: `LOW,HIGH` of raw values; as the backbone learnt, if not given.")
]
Workers = Annotated[int, typer.Option(min=1, help="Ray Train workers; each takes the mean over its part of a batch.")]
FeatureCache = Annotated[str, typer.Option(help="Folder for the frozen backbone's features.")]
CacheGb = Annotated[float, typer.Option(min=0, help="Its bound; 0 keeps nothing.")]
MaxBadShare = Annotated[
    float, typer.Option(min=0, max=1, help="Of the pictures that may be unreadable; more end the training.")
]
Licence = Annotated[str, typer.Option(help="Of the pictures, for the model card.")]


def run_of(workers: int, threads: int, gpu: bool, cache: str, cache_gb: float, max_bad_share: float) -> DetectRun:
    """Where a training runs.

    Raises:
        ConfigError: which option is wrong.
    """
    from system.training.detect_run import DetectRun

    return DetectRun.parse(
        {
            "workers": workers,
            "threads": threads,
            "use_gpu": gpu,
            "cache": str(Path(cache).absolute()),
            "cache_gb": cache_gb,
            "max_bad_share": max_bad_share,
        },
        "options",
    )


def source_of(
    train: list[str],
    val: str | None,
    images: str | None,
    split: str,
    classes: str | None,
    licence: str,
    start: str | None,
    ignore: str | None = None,
) -> DetectSource:
    """What is learnt from."""
    from system.training.detect import DetectSource

    return DetectSource(
        train=tuple(train),
        val=val,
        images=images,
        splits=options.names(split),
        classes=options.names(classes, lower=True),
        ignored=options.names(ignore, lower=True),
        licence=licence,
        start=options.absolute_place(start),
    )
