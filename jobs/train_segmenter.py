"""Train an infrared segmenter on a distilled (or any) backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import options
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    train: Annotated[
        list[str], typer.Option(help="COCO file of infrared pictures, a corpus of pairs, or pictures. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the segmenter; must be new.")],
    masks: options.Masks = "own",
    mask_classes: options.MaskClasses = None,
    pseudo: options.Pseudo = "",
    val: Annotated[str | None, typer.Option(help="Judged after each epoch, for the curve; chooses nothing.")] = None,
    split: Annotated[
        str, typer.Option(help="Parts of a corpus of pairs that are learnt from, as its layout names them.")
    ] = "train",
    images: Annotated[str | None, typer.Option(help="Folder of the COCO files' pictures, if not beside them.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Comma-separated, without the background; all of the first set, if not given.")
    ] = None,
    start: options.Start = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Folder of jobs/distill_freqkd.py, `dinov2-packaged` (if not given), `timm:NAME` or `timm:NAME@FILE`."
        ),
    ] = None,
    merge: Annotated[
        float | None, typer.Option(help="Factor of the distilled update; the folder's own, if not given.")
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen/--finetune", help="Leave the backbone as it is, or let it learn slowly.")
    ] = True,
    height: Annotated[
        int | None, typer.Option(help="Pictures are resized to it: multiples of the patch; 336, if not given.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="448, if not given.")] = None,
    blocks: Annotated[
        str | None, typer.Option(help="Whose features the decoder reads, counted from 0; `3,6,9`, if not given.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Width of the decoder; 64, if not given.")] = None,
    convs: Annotated[int | None, typer.Option(help="3x3 convolutions of it; 2, if not given.")] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced/--plain", help="Whether rare classes weigh more in the loss.")
    ] = True,
    dice_weight: Annotated[float, typer.Option(help="Of the overlap loss beside the cross-entropy.")] = 0.0,
    epochs: Annotated[int, typer.Option()] = 24,
    batch_size: Annotated[int, typer.Option(help="Pictures of one step, over all workers together.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Of the decoder.")] = 1e-3,
    backbone_factor: Annotated[float, typer.Option(help="Of it, for the backbone with --finetune.")] = 0.1,
    anchor_weight: Annotated[
        float, typer.Option(help="With --finetune: weight of the frozen copy that sees the same picture.")
    ] = 0.1,
    augment: Annotated[str, typer.Option(help="`none`, `flip`, or `full`: gain, offset, noise, blur, scale.")] = "flip",
    precision: Annotated[str, typer.Option(help="`fp32`, `bf16` or `fp16`.")] = "fp32",
    infrared_range: Annotated[
        str | None, typer.Option(help="16 bits: `LOW,HIGH` of raw values; as the backbone learnt, if not given.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Ray Train workers; each takes the mean over its part of a batch.")
    ] = 1,
    threads: options.Threads = 1,
    gpu: options.Gpu = False,
    cache: Annotated[str, typer.Option(help="Folder for the frozen backbone's features.")] = "out/detector_features",
    cache_gb: Annotated[float, typer.Option(min=0, help="Its bound; 0 keeps nothing.")] = 20.0,
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the pictures that may be unreadable; more end the training.")
    ] = 0.05,
    licence: Annotated[str, typer.Option(help="Of the pictures, for the model card.")] = "not stated",
) -> None:
    """Teach a segmenter which class each pixel of an infrared picture is of.

    The same command after a kill goes on at the last whole epoch. The folder holds the weights (safetensors), curves,
    TensorBoard events, painted pictures after each epoch, and a model card.

    The last line of stdout is one JSON object: checkpoint, segmenter_id, classes, trained_parameters, images, seconds,
    epochs, loss, miou (of --val), skipped, left_out, coloured, resumed_from, masks, pseudo.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input; 5 the backbone, or a loss that became no number.
    """
    with exit_with_code():
        set_ray_environment()
        from system.infrared.detector_trainer import DetectorTrainConfig
        from system.pairs.pixels import InfraredMapping

        # Ray reads its settings when it is imported.
        from system.training.detect import DetectSource
        from system.training.detect_run import DetectRun
        from system.training.segment import train_segmenter

        values: dict[str, Any] = {
            "backbone": options.absolute_place(backbone),
            "merge": merge,
            "height": height,
            "width": width,
            "blocks": options.numbers("--blocks", blocks),
            "channels": channels,
            "convs": convs,
            "is_frozen": frozen,
            "mapping": InfraredMapping.of_option(infrared_range) if infrared_range else None,
            "dice_weight": dice_weight,
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
        run = DetectRun.parse(
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
        source = DetectSource(
            train=tuple(train),
            val=val,
            images=images,
            splits=options.names(split),
            classes=options.names(classes, lower=True),
            licence=licence,
            start=options.absolute_place(start),
        )
        where = options.mask_source(masks, mask_classes, pseudo)
        with ConsoleProgress("training", "steps") as progress:
            result = train_segmenter(source, where, values, balanced, config, run, out, progress)
        leave_ray()
        print_figures(result)


if __name__ == "__main__":
    app()
