"""Distil an infrared backbone from RGB, across the spectral gap."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import options
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    pairs: Annotated[
        list[str] | None, typer.Option(help="Folder of pairs, or a COCO file with `file_name2`. Repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the student; must be new.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Of the loss: `registered` (the default; `reference` with `vit-l-paper`), `symmetric`, `mse`, ..."
        ),
    ] = None,
    setting: Annotated[
        str, typer.Option(help="`vit-s`, `cnn`, or the paper's own `vit-l-paper` and `resnet-50-paper`.")
    ] = "vit-s",
    reader: Annotated[str, typer.Option(help="Layout of the pairs, where it is not seen by itself.")] = "auto",
    split: Annotated[
        str, typer.Option(help="Parts of a corpus that are learnt from, comma-separated, as its layout names them.")
    ] = "train",
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the pairs that may be unreadable; more end the training.")
    ] = 0.05,
    tower: Annotated[
        str | None, typer.Option(help="`dinov2-packaged`, `timm:NAME` or `timm:NAME@FILE.safetensors`.")
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Another backbone that --tower teaches: a CNN, as `efficientnet-lite0-packaged`, `timm:resnet50` or "
            "`timm:NAME@FILE.safetensors`, whose four stages learn from four --blocks."
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Another tower, as wide as the student unless that is a CNN.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Pictures are resized to it, then padded to whole patches.")
    ] = None,
    width: Annotated[int | None, typer.Option()] = None,
    blocks: Annotated[str | None, typer.Option(help="Matched, counted from 0: e.g. `3,6,8,9`.")] = None,
    cutoff: Annotated[float | None, typer.Option(help="Share of the spectrum that is the low band, in (0, 1].")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Of the adapters, whose alpha / rank stays 1; 0 trains full matrices.")
    ] = None,
    merge: Annotated[
        float | None,
        typer.Option(
            help="Factor of the update in `merged.safetensors`: 0.5, as the paper starts detectors, if not given."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs of one step, over all workers together.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Pieces in which a worker computes its share.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    precision: Annotated[str | None, typer.Option(help="`fp32`, `bf16` or `fp16`.")] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror half of the pairs.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    infrared_range: Annotated[
        str | None,
        typer.Option(help="16 bits: `LOW,HIGH` of raw values; percentiles of each picture, if not given."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ray Train workers; they do not change what is learnt.")] = 1,
    threads: Annotated[int, typer.Option("--worker-threads", min=1, help="CPUs of each of them.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give every worker a GPU.")] = False,
    save_steps: Annotated[int, typer.Option(min=1, help="Between checkpoints, besides ends of epochs.")] = 200,
    cache: Annotated[
        str, typer.Option(help="Folder for the teacher's features, seen by every worker.")
    ] = "out/teacher",
    cache_gb: Annotated[float, typer.Option(min=0, help="Its bound; 0 keeps nothing.")] = 20.0,
    licence: Annotated[str, typer.Option(help="Of the pictures, for the model card.")] = "not stated",
    estimate: Annotated[bool, typer.Option("--estimate", help="Print memory and time, and train nothing.")] = False,
    num_pairs: Annotated[int | None, typer.Option(help="For --estimate without --pairs.")] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="For --estimate: 10^12 operations a second that one worker really reaches; 100, or 0.03 a "
            "thread for `vit-s`, if not given."
        ),
    ] = None,
) -> None:
    """Teach a backbone to see in infrared what it sees in RGB.

    `--recipe registered` finds how far the two pictures of a pair are apart and matches all frequencies; `reference`,
    the published one, matches low frequencies strictly and high ones loosely.

    The teacher is frozen; the student is the same backbone with low-rank adapters, or a convolutional network, which
    learns as a whole but for its batch norms. The same command after a kill goes
    on at the last saved step: to the same bits with one worker, within 1e-4 with more. A pair that cannot be read is
    skipped and counted. The folder holds adapters, merged weights for timm and transformers, curves, TensorBoard events
    and a model card.

    The last line of stdout is one JSON object: loss (mean over the last epoch: total, of each part of the recipe and of
    each block), seconds, images, images_per_s, checkpoint, skipped, left_out, resumed_from. With --estimate:
    parameters, tokens, student_operations, teacher_operations, memory_bytes, seconds_per_epoch, seconds, cache_bytes,
    tflops.

    Exit codes: 0 done; 2 a wrong option; 3 no readable pair, or too many that are not; 5 the model, or a loss that
    is no number.
    """
    with exit_with_code():
        set_ray_environment()
        from system.errors import ConfigError
        from system.freqkd.distiller import DistillConfig
        from system.freqkd.estimate import CPU_TFLOPS
        from system.freqkd.estimate import estimate as estimate_training
        from system.freqkd.losses import RECIPES
        from system.freqkd.recipes import SETTINGS, taught
        from system.pairs.pixels import InfraredMapping

        # Ray reads its settings when it is imported.
        from system.training.distill import PairSource, distill, gather_pairs
        from system.training.distill_run import DistillRun

        tower, teacher, student = (options.absolute_place(name) for name in (tower, teacher, student))
        if setting not in SETTINGS:
            raise ConfigError(f"--setting {setting}: expected one of {', '.join(SETTINGS)}")
        start = SETTINGS[setting]()
        if student is not None:
            start = taught(start, student, teacher or tower or start.teacher or start.tower)
            tower = teacher = None
        loss = start.loss if recipe is None else RECIPES.get(recipe)
        if loss is None:
            known = ", ".join(name for name, value in RECIPES.items() if value is not None)
            raise ConfigError(f"--recipe {recipe}: expected one of {known}")
        given: dict[str, Any] = {
            "tower": tower,
            "teacher": teacher,
            "height": height,
            "width": width,
            "blocks": options.numbers("--blocks", blocks),
            "rank": rank,
            "merge_factor": merge,
            "epochs": epochs,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "learning_rate": learning_rate,
            "precision": precision,
            "flip": flip,
        }
        values = start.model_dump() | {key: value for key, value in given.items() if value is not None}
        if rank is not None:
            values["alpha"] = float(rank or 1)
        values |= {"seed": seed, "loss": (loss if cutoff is None else loss.with_cutoff(cutoff)).model_dump()}
        config = DistillConfig.parse(values, "options")
        source = PairSource(
            uris=tuple(pairs or ()),
            reader=reader,
            licence=licence,
            splits=tuple(part.strip() for part in split.split(",")),
            mapping=InfraredMapping.of_option(infrared_range),
        )
        if estimate:
            if not num_pairs and not pairs:
                raise ConfigError("--estimate: give --num-pairs or --pairs")
            if tflops is None:
                tflops = 100.0 if setting.endswith("-paper") or gpu else CPU_TFLOPS * threads
            count = num_pairs or len(gather_pairs(source).names)
            print_figures(
                asdict(estimate_training(config, count, tflops, workers, cache_gb * 1e9)) | {"tflops": tflops}
            )
            return
        if not pairs or out is None:
            raise ConfigError("give --pairs and --out")
        run = DistillRun.parse(
            {
                "workers": workers,
                "threads": threads,
                "use_gpu": gpu,
                "save_steps": save_steps,
                "cache": str(Path(cache).absolute()),
                "cache_gb": cache_gb,
                "max_bad_share": max_bad_share,
            },
            "options",
        )
        with ConsoleProgress("distilling", "steps") as progress:
            result = distill(source, config, run, out, progress)
        leave_ray()
        print_figures(result)


if __name__ == "__main__":
    app()
