"""Which part of FreqKD does what, and how it stands pairs that drift apart: many small trainings, judged by a probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import options
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures, stdout_console
from system.report.freqkd_study import freqkd_table

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

ARMS = "none,mse,cosine,response,low_only,high_only,reference,symmetric,radial,reference_signed,registered"


@app.command()
def main(
    train: Annotated[str, typer.Option(help="Pairs to distil with and to fit the probe on: a COCO file or a folder.")],
    test: Annotated[str, typer.Option(help="Pairs with boxes that the probe is read on.")],
    out: Annotated[Path, typer.Option(help="Folder of the study, seen by every worker; an unfinished one goes on.")],
    arms: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated recipes, each with options: `reference@cutoff=0.25`, `mse@rank=16`, "
            "`registered@blocks=6+9@merge=1`, `@rank=full`. May be repeated."
        ),
    ] = None,
    drifts: Annotated[str, typer.Option(help="Pixels, comma-separated.")] = "0,4,8,14,28",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm at each drift.")] = 3,
    ours: Annotated[
        str | None, typer.Option(help="The arm that is compared with every other; `registered`, if not given.")
    ] = None,
    infrared_range: Annotated[
        str | None,
        typer.Option(help="16 bits: `LOW,HIGH` of raw values; percentiles of each picture, if not given."),
    ] = None,
    tower: Annotated[str, typer.Option(help="`dinov2-packaged`, `timm:NAME` or `timm:NAME@FILE`.")] = "dinov2-packaged",
    blocks: Annotated[str, typer.Option(help="Matched blocks, comma-separated, counted from 0.")] = "3,6,8,9",
    student: Annotated[
        str | None,
        typer.Option(
            help="A CNN that --tower teaches, e.g. `efficientnet-lite0-packaged`; the tower itself, if not given."
        ),
    ] = None,
    probe_block: Annotated[
        int | None, typer.Option("--block", help="Whose output is probed: 9, or stage 2 of a CNN, if not given.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training pairs.")] = 3,
    height: Annotated[int, typer.Option(help="Pictures are resized to it; small objects need it.")] = 238,
    width: Annotated[int, typer.Option(help="Pictures are resized to it.")] = 322,
    batch_size: Annotated[int, typer.Option(help="Pairs of a step; few pairs need small steps.")] = 2,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate of AdamW, of every arm: 2e-4, or 1e-3 of a CNN, if not given."),
    ] = None,
    rank: Annotated[int, typer.Option(help="Of the adapters, where an arm names none.")] = 64,
    precision: Annotated[str, typer.Option(help="Of training: `fp32`, `bf16` or `fp16`.")] = "fp32",
    max_train_pictures: Annotated[
        int, typer.Option(help="More are thinned evenly, so that all fit into memory; test pictures never are.")
    ] = 1200,
    rounds: Annotated[int, typer.Option(help="Bootstrap draws.")] = 1000,
    threads: Annotated[int, typer.Option("--worker-threads", help="CPUs of a run.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give every run a GPU.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--budget", help="Print the budget and end.")] = False,
) -> None:
    """Distil a student for every arm, drift and seed, and probe its infrared features on pairs that did not drift.

    Drift: the infrared picture of each training pair is moved by its own whole-pixel shift, uniform in the square of
    that many pixels in both directions at network size, edges replicated; the same shift for every arm of a seed. All
    arms have the same pairs in the same order, the same mirrorings, adapters that start alike, and the same steps and
    learning rate; `@rank=` keeps alpha / rank at 1. Students are judged as `distill_freqkd` exports them, W + 0.5 x
    the update, unless `@merge=` says otherwise. `none` is the untouched backbone, judged once.

    A CNN learns as a whole, without adapters, and is judged so; with `@first=0.3` its projections learn alone in that
    share of the steps. Its stage is probed on the teacher's patches, and its mean patch finds the mean RGB patch of the
    untouched CNN.

    The budget goes to stderr before the first run. The last line of stdout is one JSON object: arms {arm: {drift:
    {mean, low, high, seeds, CLASS, retrieval_r1, retrieval_r5}}}, drifts, differences (paired), seen_in_training (test
    pictures that are copies of training ones), budget. The same lies in study.json, drawn in study.png and to be read
    in study.md.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input; 5 the backbone, a loss that became no number, or workers,
    memory or machines that were lost.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.freqkd.distiller import DistillConfig
        from system.freqkd.recipes import taught
        from system.pairs.pixels import InfraredMapping
        from system.training.freqkd_study import StudyConfig, default_block, study_freqkd

        distill = DistillConfig.parse(
            {
                "tower": options.absolute_place(tower),
                "height": height,
                "width": width,
                "blocks": options.numbers("--blocks", blocks),
                "rank": rank,
                "precision": precision,
                "alpha": float(rank or 1),
                "epochs": epochs,
                "batch_size": batch_size,
            },
            "options",
        )
        if student is not None:
            distill = taught(distill, options.absolute_place(student) or student, distill.tower)
        if learning_rate is not None:
            distill = DistillConfig.parse(distill.model_dump() | {"learning_rate": learning_rate}, "options")
        config = StudyConfig.parse(
            {
                "train": train,
                "test": test,
                "arms": tuple(arms or (ARMS,)),
                "drifts": options.numbers("--drifts", drifts),
                "seeds": seeds,
                "ours": ours,
                "mapping": InfraredMapping.of_option(infrared_range),
                "probe_block": default_block(distill) if probe_block is None else probe_block,
                "max_train_pictures": max_train_pictures,
                "rounds": rounds,
                "threads": threads,
                "use_gpu": gpu,
                "distill": distill,
            },
            "options",
        )
        with ConsoleProgress("studying", "runs") as progress:

            def tell(budget: dict[str, Any]) -> None:
                progress.note(f"budget: {json.dumps(budget)}")

            result = study_freqkd(config, out, progress, tell, dry_run)
        leave_ray()
        if not dry_run:
            stdout_console().print(freqkd_table(result))
        print_figures(result)


if __name__ == "__main__":
    app()
