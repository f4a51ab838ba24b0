"""Find things in infrared pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    images: Annotated[list[str], typer.Option(help="Picture, folder of pictures, or URI (s3://...). Repeatable.")],
    model: Annotated[str, typer.Option(help="Folder of jobs/train_detector.py.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; must be new.")],
    min_score: Annotated[float, typer.Option(help="Of what is written.")] = 0.05,
    draw: Annotated[int, typer.Option(help="So many pictures are drawn with their boxes.")] = 24,
    max_bad_share: Annotated[float, typer.Option(min=0, max=1, help="Of pictures that may be unreadable.")] = 0.05,
    batch_size: Annotated[int, typer.Option(help="Pictures of one pass.")] = 4,
    actors: Annotated[int | None, typer.Option(help="Detectors at once; sized from the cluster, if not given.")] = None,
    actor_threads: Annotated[int | None, typer.Option(help="CPUs of each.")] = None,
) -> None:
    """Detect on Ray, as many pictures as there are; unreadable ones are written down and left out.

    The folder holds detections.parquet, coco.json, quarantine.jsonl and pictures with boxes. The last line of stdout is
    one JSON object: images, detections, classes, quarantined, coloured, seconds, first_result_s, images_per_s,
    detector_id, out.

    Exit codes: 0 done; 2 a wrong option; 3 nothing to read, or too much that cannot be; 5 the model.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.pipelines.config import PoolConfig
        from system.pipelines.predict_infrared import PredictConfig, predict_infrared

        config = PredictConfig.parse(
            {"min_score": min_score, "draw": draw, "max_bad_share": max_bad_share, "batch_size": batch_size}, "options"
        )
        pool = PoolConfig.parse({"actors": actors, "threads_per_actor": actor_threads}, "options")
        with ConsoleProgress("detecting", "pictures") as progress:
            result = predict_infrared(images, model, out, config, pool, progress)
        leave_ray()
        print_figures(result)


if __name__ == "__main__":
    app()
