"""Mine driving logs for hard, safety-critical scenes."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from system.errors import ReconcileError
from system.logs.windows import WindowConfig
from system.pipelines.config import MineConfig, PoolConfig
from system.pipelines.mine import mine_fleet, plan_only
from system.pipelines.mining_progress import MiningProgress
from system.pipelines.ray_environment import leave_ray
from system.pipelines.run_report import hardest_cards
from system.report.console import exit_with_code, print_figures, stdout_console
from system.report.terminal import hardest_table

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    logs: Annotated[list[str], typer.Option(help="Folder, file or URI (s3://...) with logs. May be repeated.")],
    store: Annotated[str, typer.Option(help="Folder or URI where the LanceDB tables lie; made if missing.")],
    log_format: Annotated[
        str, typer.Option("--format", help="Reader to use, or `auto`, which says what it recognised and why.")
    ] = "auto",
    tower: Annotated[
        str, typer.Option(help="`packaged`, `open_clip:NAME/PRETRAINED` or `transformers:NAME_OR_PATH`.")
    ] = "packaged",
    model: Annotated[str | None, typer.Option(help="Folder of a trained SceneMiner; without it, zero-shot.")] = None,
    taxonomy: Annotated[str | None, typer.Option(help="TOML file with other tags than the 20 of ours.")] = None,
    window_s: Annotated[float, typer.Option(help="Length of a scene window, in seconds.")] = 4.0,
    stride_s: Annotated[float | None, typer.Option(help="From window to window; the length, if not given.")] = None,
    keyframe_hz: Annotated[float, typer.Option(help="At most so many pictures a second and camera are used.")] = 2.0,
    limit: Annotated[int | None, typer.Option(help="Mine at most so many scenes that the store lacks.")] = None,
    max_bad_share: Annotated[
        float, typer.Option(help="Exit with code 6 if more than this share of the scenes had to be quarantined.")
    ] = 0.1,
    retry_quarantined: Annotated[bool, typer.Option(help="Try again what earlier runs put into quarantine.")] = False,
    report: Annotated[
        str | None, typer.Option(help="Where the HTML report goes; into the store, if not given.")
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Workers that hold the model; from the cluster, if not given.")
    ] = None,
    actor_threads: Annotated[int | None, typer.Option(help="CPUs of each of them.")] = None,
    max_actors: Annotated[
        int | None, typer.Option(help="On a cluster that grows: add workers up to so many as nodes come.")
    ] = None,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--no-gpu", help="Workers ask for a GPU each; if not given, where the cluster has one now."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be mined, and write nothing.")] = False,
    top: Annotated[int, typer.Option(help="Hardest scenes to show in the table.")] = 10,
) -> None:
    """Mine driving logs into a store, rank every scene by hardness, and write a report.

    Scenes that the store holds for this model are not mined again, so that the same command every night mines what is
    new, and the same command after a crash mines what is missing. SIGTERM ends the run after the batch in hand, or
    once none has come for two minutes.

    The last line of stdout is one JSON object: found = committed + already + quarantined + remaining. Scenes remain
    where the run was stopped, and where the storage did not answer (`unread`: scenes, and logs to be listed); the next
    run mines them.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input; 4 the store; 5 the model; 6 the counts do not add up,
    too much is in quarantine, or the storage did not answer.
    """
    with exit_with_code():
        config = MineConfig.parse(
            {
                "logs": tuple(logs),
                "store": store,
                "log_format": log_format,
                "tower": tower,
                "model": model,
                "taxonomy": taxonomy,
                "limit": limit,
                "max_bad_share": max_bad_share,
                "retry_quarantined": retry_quarantined,
                "report": report,
                "windows": WindowConfig.of_options(window_s, stride_s, keyframe_hz),
                "pool": PoolConfig.parse(
                    {"actors": actors, "max_actors": max_actors, "gpu": gpu, "threads_per_actor": actor_threads},
                    "options",
                ),
            },
            "options",
        )
        if dry_run:
            with MiningProgress() as progress:
                plan = plan_only(config)
                progress.planned(plan)
            print_figures({**plan.figures(), "dry_run": True})
            return
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        with MiningProgress() as progress:
            result = mine_fleet(config, progress, stop.is_set)
        stdout_console().print(hardest_table(hardest_cards(store, result.run_id, top)))
        print(f"report: {result.report}")
        print_figures(result.as_json())
        leave_ray()
        if result.problem is not None:
            raise ReconcileError(result.problem)


if __name__ == "__main__":
    app()
