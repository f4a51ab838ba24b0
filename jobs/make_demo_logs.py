"""Make demo logs: simulated drives with six cameras and an infrared one, as nuScenes tables."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from system.demo.config import default_scenes
from system.demo.make import make_demo_logs
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for the logs; must be new or empty.")] = Path("out/demo-logs"),
    scenes: Annotated[int, typer.Option(min=1, max=1000, help="How many scenes.")] = 12,
    seconds: Annotated[float, typer.Option(min=6.0, max=60.0, help="Length of each.")] = 7.0,
    seed: Annotated[int, typer.Option(min=0, max=1_000_000, help="The same seed gives the same bytes.")] = 1,
    processes: Annotated[int | None, typer.Option(min=1, help="Side by side; all CPUs, if not given.")] = None,
) -> None:
    """Simulate traffic in drawn towns and write what the cameras of one car see.

    Day, dusk, night, rain and fog; every second scene has a staged hazard: a lead that brakes hard, a cut-in, a
    jaywalker or a red-light runner. `OUT/train` and `OUT/test` hold different towns, each with nuScenes tables
    (v1.0-demo), pictures, COCO boxes for the RGB and the infrared front camera, and truth.json with tags and hazards
    from the simulator.

    The last line of stdout is one JSON object: {"scenes", "pictures", "boxes", "hazards", "min_ttc_s", "seconds"}.
    """
    started_s = time.perf_counter()
    with exit_with_code(), ConsoleProgress("drawing") as progress:
        progress.expect(scenes)
        progress.phase("simulating and drawing")
        figures = make_demo_logs(
            out,
            default_scenes(scenes, seconds, seed),
            processes or os.cpu_count() or 1,
            lambda name, pictures: progress.advanced(1, 0, pictures),
        )
        print_figures({**figures, "out": str(out), "seconds": round(time.perf_counter() - started_s, 1)})


if __name__ == "__main__":
    app()
