"""Train an infrared detector on a distilled (or any) backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import options, trainer_options
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    train: Annotated[
        list[str], typer.Option(help="COCO file of infrared pictures, or a corpus of pairs with boxes. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the detector; must be new.")],
    val: trainer_options.Val = None,
    split: trainer_options.Split = "train",
    images: trainer_options.Images = None,
    classes: Annotated[str | None, typer.Option(help="Comma-separated; all of the first set, if not given.")] = None,
    ignore: options.Ignore = None,
    start: options.Start = None,
    architecture: Annotated[
        str | None, typer.Option(help="`fcos`, which trains on CPUs, `faster_rcnn`, or `rf_detr`; fcos, if not given.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Folder of jobs/distill_freqkd.py, `dinov2-packaged` (if not given), `efficientnet-lite0-packaged`, "
            "`timm:NAME` or `timm:NAME@FILE`: a ViT or a CNN."
        ),
    ] = None,
    merge: trainer_options.Merge = None,
    frozen: trainer_options.Frozen = True,
    height: Annotated[
        int | None,
        typer.Option(help="Pictures are resized to it: multiples of the patch, or of a CNN's 32; 336 (CNN: 352)."),
    ] = None,
    width: trainer_options.Width = None,
    blocks: Annotated[
        str | None,
        typer.Option(help="Whose features the head reads, counted from 0: `3,6,9`, or a CNN's stages `0,1,2,3`."),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Width of the head; 64, if not given.")] = None,
    convs: Annotated[int | None, typer.Option(help="Of each of fcos' two branches; 2, if not given.")] = None,
    epochs: Annotated[int, typer.Option()] = 24,
    batch_size: trainer_options.BatchSize = 2,
    learning_rate: Annotated[float, typer.Option(help="Of the head.")] = 1e-3,
    backbone_factor: trainer_options.BackboneFactor = 0.1,
    anchor_weight: trainer_options.AnchorWeight = 0.1,
    augment: trainer_options.Augment = "flip",
    precision: trainer_options.Precision = "fp32",
    infrared_range: trainer_options.InfraredRange = None,
    seed: Annotated[int, typer.Option()] = 0,
    workers: trainer_options.Workers = 1,
    threads: options.Threads = 1,
    gpu: options.Gpu = False,
    cache: trainer_options.FeatureCache = "out/detector_features",
    cache_gb: trainer_options.CacheGb = 20.0,
    max_bad_share: trainer_options.MaxBadShare = 0.05,
    licence: trainer_options.Licence = "not stated",
) -> None:
    """Teach a detector to find things in infrared pictures.

    The same command after a kill goes on at the last whole epoch. The folder holds the weights (safetensors), curves,
    TensorBoard events, pictures with boxes after each epoch, and a model card.

    The last line of stdout is one JSON object: checkpoint, detector_id, classes, trained_parameters, images, seconds,
    epochs, loss, ap50, ap (of 500 pictures of --val at most), skipped, left_out, mended, coloured, resumed_from.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input; 5 the backbone, or a loss that became no number.
    """
    with exit_with_code():
        set_ray_environment()
        from system.infrared.detector_trainer import DetectorTrainConfig
        from system.pairs.pixels import InfraredMapping

        # Ray reads its settings when it is imported.
        from system.training.detect import train_detector

        values: dict[str, Any] = {
            "architecture": architecture,
            "backbone": options.absolute_place(backbone),
            "merge": merge,
            "height": height,
            "width": width,
            "blocks": options.numbers("--blocks", blocks),
            "channels": channels,
            "convs": convs,
            "is_frozen": frozen,
            "mapping": InfraredMapping.of_option(infrared_range) if infrared_range else None,
        }
        config = DetectorTrainConfig.parse(
            {
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "backbone_factor": backbone_factor,
                "anchor_weight": anchor_weight,
                "augment": augment,
                "precision": precision,
                "seed": seed,
            },
            "options",
        )
        run = trainer_options.run_of(workers, threads, gpu, cache, cache_gb, max_bad_share)
        source = trainer_options.source_of(train, val, images, split, classes, licence, start, ignore)
        with ConsoleProgress("training", "steps") as progress:
            result = train_detector(source, values, config, run, out, progress)
        leave_ray()
        print_figures(result)


if __name__ == "__main__":
    app()
