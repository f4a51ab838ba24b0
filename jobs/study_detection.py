"""What distillation is worth to an infrared detector or segmenter: many small trainings on the same pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import options
from system.errors import ConfigError
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

_TASKS = ("detection", "segmentation")
# Names that a study's own sets have.
_OWN_SETS = ("train", "test")
app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    students: Annotated[str, typer.Option(help="Folder of jobs/study_freqkd.py, whose students are compared.")],
    train: Annotated[str, typer.Option(help="Labelled infrared pictures: a COCO file or a corpus of pairs.")],
    out: Annotated[Path, typer.Option(help="Folder of the study, seen by every worker; an unfinished one goes on.")],
    task: Annotated[str, typer.Option(help="`detection` or `segmentation`.")] = "detection",
    masks: options.Masks = "own",
    mask_classes: options.MaskClasses = None,
    pseudo: options.Pseudo = "",
    test: Annotated[
        str | None, typer.Option(help="Others to judge on; the last part of --train by name, if not given.")
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(help="Share of --train kept for tests, without --test; no student may have learnt from it."),
    ] = 0.3,
    also: Annotated[
        list[str] | None, typer.Option(help="NAME=SET, judged too without training on it. Repeatable.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Comma-separated; all of --train, if not given.")] = None,
    arms: Annotated[str, typer.Option(help="Arms of the FreqKD study.")] = "none,mse,cosine,reference,registered",
    drifts: Annotated[str, typer.Option(help="Of its pairs, in pixels, comma-separated.")] = "0",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    ours: Annotated[
        str | None, typer.Option(help="The arm that is compared with every other; `registered`, if not given.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Of a detector: `fcos`, if not given, `faster_rcnn` or `rf_detr`.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="280, or 288 for a CNN or a ViT/16, if not given.")] = None,
    width: Annotated[int | None, typer.Option(help="378, or 384 for a CNN or a ViT/16, if not given.")] = None,
    blocks: Annotated[
        str | None, typer.Option(help="Whose features the head reads; `3,6,9`, or a CNN's stages `0,1,2,3`.")
    ] = None,
    channels: Annotated[int, typer.Option(help="Width of the head.")] = 64,
    epochs: Annotated[int, typer.Option()] = 36,
    batch_size: Annotated[int, typer.Option()] = 4,
    learning_rate: Annotated[float, typer.Option()] = 2e-3,
    precision: Annotated[str, typer.Option(help="Of training: `fp32`, `bf16` or `fp16`.")] = "fp32",
    rounds: Annotated[int, typer.Option(help="Bootstrap draws.")] = 1000,
    threads: Annotated[int, typer.Option("--worker-threads", help="CPUs of a run.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give every run a GPU.")] = False,
    cache_gb: Annotated[
        float,
        typer.Option(
            min=0, help="Bound of a run's features of the frozen backbone, in OUT/cache until it ends; 0 keeps nothing."
        ),
    ] = 20.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--budget", help="Print the budget and end.")] = False,
) -> None:
    """Train the same head on the frozen student of every arm, drift and seed, and judge all on the same pictures.

    All arms have the same pictures in the same order, the same views, heads that start alike, and the same steps.

    The last line of stdout is one JSON object: sets {test, NAME: {arms {arm: {drift: {ap50 {mean, low, high, seeds},
    ap, CLASS}}}, differences (paired)}}, seen_in_training (pictures of each set that students learnt from, or the
    heads as copies; null: not known), budget; miou in place of ap50 and ap for segmentation. The same lies in
    study.json and, to be read, in study.md.

    Exit codes: 0 done; 2 a wrong option, or students that are missing; 3 unreadable input; 5 a backbone, a loss that
    became no number, or workers, memory or machines that were lost.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.infrared.detector_trainer import DetectorTrainConfig
        from system.training.detection_study import DetectionStudyConfig, study_detection
        from system.training.segmentation_study import study_segmentation

        if task not in _TASKS:
            raise ConfigError(f"--task {task}: expected one of {', '.join(_TASKS)}")
        if task == "segmentation" and architecture:
            raise ConfigError("--architecture goes with --task detection")
        if task == "detection" and (masks != "own" or mask_classes or pseudo):
            raise ConfigError("--masks, --mask-classes and --pseudo go with --task segmentation")
        study = DetectionStudyConfig.parse(
            {
                "students": students,
                "train": train,
                "test": test,
                "hold_out": hold_out,
                "also": named_sets(also or ()),
                "classes": options.names(classes, lower=True),
                "arms": (arms,),
                "drifts": options.numbers("--drifts", drifts),
                "seeds": seeds,
                "ours": ours,
                "rounds": rounds,
                "threads": threads,
                "use_gpu": gpu,
                "cache_gb": cache_gb,
            },
            "options",
        )
        values: dict[str, Any] = {
            "architecture": architecture,
            "height": height,
            "width": width,
            "blocks": None if blocks is None else options.numbers("--blocks", blocks),
            "channels": channels,
        }
        config = DetectorTrainConfig.parse(
            {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "precision": precision},
            "options",
        )
        with ConsoleProgress("studying", "runs") as progress:

            def tell(budget: dict[str, Any]) -> None:
                progress.note(f"budget: {json.dumps(budget)}")

            if task == "detection":
                result = study_detection(study, values, config, out, progress, tell, dry_run)
            else:
                where = options.mask_source(masks, mask_classes, pseudo)
                result = study_segmentation(study, where, values, config, out, progress, tell, dry_run)
        leave_ray()
        print_figures(result)


def named_sets(texts: Sequence[str]) -> dict[str, str]:
    """The sets of --also by name.

    Raises:
        ConfigError: one without a name, or with one that is taken.
    """
    named: dict[str, str] = {}
    for text in texts:
        name, equals, uri = text.partition("=")
        if not name or not equals or name in _OWN_SETS:
            raise ConfigError(f"--also {text}: expected NAME=SET, with a name other than {' and '.join(_OWN_SETS)}")
        if name in named:
            raise ConfigError(f"--also {text}: {name} is {named[name]} already; expected each name once")
        named[name] = uri
    return named


if __name__ == "__main__":
    app()
