"""What a backbone's infrared features know: patch-level precision per class, and finding their own RGB picture."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    backbone: Annotated[
        str,
        typer.Option(
            help="`dinov2-packaged`, `timm:NAME`, `timm:NAME@FILE.safetensors`, or a folder of jobs/distill_freqkd.py."
        ),
    ],
    train: Annotated[str, typer.Option(help="Pairs with boxes to fit the probe on: a COCO file or a folder.")],
    test: Annotated[str, typer.Option(help="Pairs with boxes to read it on.")],
    block: Annotated[int, typer.Option(help="Whose output is probed, counted from 0.")] = 9,
    height: Annotated[int, typer.Option(help="Pictures are resized to it.")] = 238,
    width: Annotated[int, typer.Option(help="Pictures are resized to it.")] = 322,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="The untouched backbone whose RGB features are to be found; without it, a distilled folder's own, "
            "else dinov2-packaged."
        ),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Comma-separated; all of which both sets show an object, if not given.")
    ] = "",
    max_train_pictures: Annotated[int, typer.Option(help="More are thinned evenly; test pictures never are.")] = 1200,
    infrared_range: Annotated[
        str | None,
        typer.Option(
            help="16 bits: `LOW,HIGH` of raw values; what a distilled folder learnt with, else percentiles of each "
            "picture, if not given."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Bootstrap draws of test pictures.")] = 1000,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all.")] = 0,
) -> None:
    """Fit a linear probe for each class on infrared patches of `--train` and read its precision on `--test`.

    A patch shows a class when its boxes cover at least half of it, or when the centre of one lies in it; patches that
    only ignored boxes (`iscrowd`) touch so do not count. The probe is logistic regression on standardised features with
    one fixed penalty for all backbones. Retrieval: the mean infrared patch of the backbone finds
    the mean RGB patch of the teacher among all test pairs, each modality centred by its own mean.

    The last line of stdout is one JSON object: patch_ap {class..., mean}, retrieval_r1, retrieval_r5 in points of 100,
    each with a 95 % interval over draws of test pictures, counts, penalty, seconds, seen_in_training (how many of the
    test pictures the backbone has learnt from, or the probe as copies; null where that is not known).

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input or no class that both sets show; 5 the backbone.
    """
    with exit_with_code():
        from system.pairs.pixels import InfraredMapping
        from system.training.probe import ProbeConfig, probe_backbone

        config = ProbeConfig.parse(
            {
                "block": block,
                "height": height,
                "width": width,
                "teacher": teacher,
                "classes": options.names(classes, lower=True),
                "max_train_pictures": max_train_pictures,
                "rounds": rounds,
                "mapping": None if infrared_range is None else InfraredMapping.of_option(infrared_range),
                "threads": threads,
            },
            "options",
        )
        with ConsoleProgress("probing", "pictures") as progress:
            result = probe_backbone(backbone, train, test, config, progress.phase, progress.note)
        print_figures(result)


if __name__ == "__main__":
    app()
