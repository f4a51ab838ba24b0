"""Find things in infrared pictures, videos, driving logs, or the scenes of a store."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from system.errors import ConfigError, ReconcileError
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="Folder of jobs/train_detector.py.")],
    images: Annotated[
        list[str] | None, typer.Option(help="Picture, folder of pictures, video, or URI (s3://...). Repeatable.")
    ] = None,
    logs: Annotated[
        list[str] | None, typer.Option(help="Driving logs; their infrared cameras are looked at. Repeatable.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="A store of scenes: what is found goes into its table `detections`, once.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; must be new. Not with --store.")] = None,
    log_format: Annotated[str, typer.Option("--format", help="Of --logs, as for mining.")] = "auto",
    keyframe_hz: Annotated[
        float,
        typer.Option(
            min=0.01, max=1000, help="Pictures a second and camera of logs, videos and scenes, of a scene at least one."
        ),
    ] = 2.0,
    all_cameras: Annotated[
        bool, typer.Option("--all-cameras", help="Of --logs: whatever they are called, all are infrared.")
    ] = False,
    min_score: Annotated[float, typer.Option(min=0.02, help="Of what is written.")] = 0.05,
    draw: Annotated[int, typer.Option(help="So many pictures are drawn with their boxes.")] = 24,
    max_bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of pictures (of a store: scenes) that may be unreadable.")
    ] = 0.05,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Of --store: look again at scenes that could not be read.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Pictures of one pass.")] = 4,
    actors: Annotated[int | None, typer.Option(help="Detectors at once; sized from the cluster, if not given.")] = None,
    actor_threads: Annotated[int | None, typer.Option(help="CPUs of each.")] = None,
) -> None:
    """Detect on Ray, as many pictures as there are; unreadable ones are written down and left out.

    The folder holds detections.parquet, coco.json, quarantine.jsonl and pictures with boxes. The last line of stdout is
    one JSON object: images, detections, classes, quarantined, coloured, windows_without_infrared, seconds,
    first_result_s, images_per_s, efficiency (after the first batch, over the detectors' own calls; the bare model at
    rest beside it: `python -m tests.benchmarks.infrared_efficiency`), detector_id, out.

    With --store each scene is looked at once by a detector, with the --min-score and --keyframe-hz of that time; the
    same command again looks at what is new, and `search_scenes --detected person:0.5` asks for what was found. The last
    line: found = committed + already + quarantined + unreachable + remaining, stopped, without_infrared, coloured,
    images, detections, classes, seconds, detector_id, run_id, problem.

    A killed run with --store goes on with the same command; one with --out starts anew, and its folder appears when all
    is in it. SIGTERM ends a run after the picture in hand: with --store whole scenes are kept and the exit code is 0.

    Exit codes: 0 done, or stopped with --store; 2 a wrong option; 3 nothing to read, or too much that cannot be; 4
    another job writes to the store; 5 the model; 6 the counts do not add up, or too many scenes are in quarantine; 143
    stopped with --out.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.pipelines.config import PoolConfig
        from system.pipelines.detect_scenes import detect_scenes
        from system.pipelines.predict_infrared import Looked, PredictConfig, predict_infrared

        config = PredictConfig.parse(
            {"min_score": min_score, "draw": draw, "max_bad_share": max_bad_share, "batch_size": batch_size}, "options"
        )
        pool = PoolConfig.parse({"actors": actors, "threads_per_actor": actor_threads}, "options")
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        if store is not None:
            if images or logs or out or all_cameras or log_format != "auto":
                raise ConfigError("--store takes no --images, --logs, --out, --format and --all-cameras")
            with ConsoleProgress("detecting", "scenes") as progress:
                result = detect_scenes(
                    store, model, config, keyframe_hz, retry_quarantined, pool, progress, stop.is_set
                )
        else:
            if out is None:
                raise ConfigError("--out: expected a folder for the results, or --store")
            looked = Looked.parse(
                {
                    "images": tuple(images or ()),
                    "logs": tuple(logs or ()),
                    "log_format": log_format,
                    "keyframe_hz": keyframe_hz,
                    "all_cameras": all_cameras,
                },
                "options",
            )
            with ConsoleProgress("detecting", "pictures") as progress:
                result = predict_infrared(looked, model, out, config, pool, progress, stop.is_set)
        leave_ray()
        print_figures(result)
        if result.get("problem"):
            raise ReconcileError(result["problem"])


if __name__ == "__main__":
    app()
