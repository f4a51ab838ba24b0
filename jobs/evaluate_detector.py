"""Judge an infrared detector, or a result file by KAIST's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from system.errors import ConfigError
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    coco: Annotated[
        str | None, typer.Option(help="COCO file of infrared pictures, or a corpus of pairs with boxes.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Folder of the COCO file's pictures, if not beside it; with --kaist-out, of KAIST's sets."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder of jobs/train_detector.py.")] = None,
    ignore: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated classes of --coco in whose boxes nothing is right or wrong: people,cyclist."
        ),
    ] = None,
    kaist_annotations: Annotated[Path | None, typer.Option(help="KAIST's annotation file (JSON).")] = None,
    kaist_results: Annotated[Path | None, typer.Option(help="Result file: image,x,y,w,h,score a line.")] = None,
    kaist_out: Annotated[
        Path | None,
        typer.Option(help="New result file of --model on --images, the pictures of --kaist-annotations; then judged."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures, curves and the sheet of worst errors.")] = None,
    rounds: Annotated[int, typer.Option(help="Bootstrap draws of pictures.")] = 1000,
    sure_score: Annotated[float, typer.Option(help="What no detection of this score finds is a miss.")] = 0.3,
    max_bad_share: Annotated[float, typer.Option(min=0, max=1, help="Of pictures that may be unreadable.")] = 0.05,
    actors: Annotated[int | None, typer.Option(help="Detectors at once; sized from the cluster, if not given.")] = None,
    actor_threads: Annotated[int | None, typer.Option(help="CPUs of each.")] = None,
) -> None:
    """COCO's AP of a detector with intervals, or KAIST's log-average miss rates of a result file or a detector.

    The last line of stdout is one JSON object. With --coco: ap50 and ap {value, low, high}, classes, coco (AP, AP50,
    AP75, AR, by size), parity (the same on pictures with objects only, as FreqKD's paper does), calibration, counts,
    seen_in_training (pictures that it or its backbone learnt from as copies or without labels; null: not known),
    ignored (classes of --ignore).
    With --kaist-results: mr_all, mr_day, mr_night and other subsets, ap50, intervals, counts, parity. In points of 100.
    With --kaist-out the detector's persons are first written as such a file, which other tools take too.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input; 5 the model.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.pipelines.config import PoolConfig
        from system.training.evaluate_detector import JudgeConfig, judge_detector
        from system.training.evaluate_kaist import judge_kaist, judge_on_kaist

        config = JudgeConfig.parse(
            {
                "rounds": rounds,
                "sure_score": sure_score,
                "max_bad_share": max_bad_share,
                "ignored": options.names(ignore, lower=True),
            },
            "options",
        )
        asked = [option for option in (coco, kaist_results, kaist_out) if option is not None]
        if len(asked) != 1 or (kaist_annotations is None) != (coco is not None):
            raise ConfigError(
                "give --coco and --model, or --kaist-annotations and --kaist-results, or --kaist-annotations, "
                "--images, --model and --kaist-out"
            )
        if ignore is not None and coco is None:
            raise ConfigError(f"--ignore {ignore} goes with --coco; KAIST's annotations say themselves what is ignored")
        if kaist_annotations is not None and kaist_results is not None:
            if model is not None or images is not None:
                raise ConfigError("--kaist-results takes no --model and no --images; with them, name --kaist-out")
            print_figures(judge_kaist(kaist_annotations, kaist_results, out, config))
            return
        if model is None:
            raise ConfigError("give --model, the folder of a detector, with --coco and --kaist-out")
        pool = PoolConfig.parse({"actors": actors, "threads_per_actor": actor_threads}, "options")
        with ConsoleProgress("detecting", "pictures") as progress:
            if kaist_annotations is not None and kaist_out is not None:
                if images is None:
                    raise ConfigError("--kaist-out: give --images, the folder of KAIST's pictures (setXX/VYYY/lwir)")
                result = judge_on_kaist(kaist_annotations, images, model, kaist_out, out, config, pool, progress)
            else:
                assert coco is not None
                result = judge_detector(coco, images, model, out, config, pool, progress)
        leave_ray()
        print_figures(result)


if __name__ == "__main__":
    app()
