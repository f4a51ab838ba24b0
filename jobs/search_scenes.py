"""Search mined scenes by text, picture, scene, tags, risk and time."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from system.errors import ConfigError
from system.pipelines.search import search_store
from system.report.console import exit_with_code, print_figures, stdout_console
from system.report.terminal import results_table
from system.store.detections import Detected
from system.store.filters import SceneFilter
from system.store.search import SearchConfig

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    store: Annotated[str, typer.Option(help="Store that jobs/mine_fleet.py filled.")],
    text: Annotated[str | None, typer.Option(help='What to look for, e.g. "pedestrian crossing at night".')] = None,
    image: Annotated[str | None, typer.Option(help="Path or URI of a picture to find the like of.")] = None,
    scene: Annotated[str | None, typer.Option(help="Id of a scene to find the like of.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="The scene has this tag. May be repeated: all of them.")] = None,
    any_tag: Annotated[list[str] | None, typer.Option(help="The scene has at least one of these.")] = None,
    without_tag: Annotated[list[str] | None, typer.Option(help="The scene does not have this tag.")] = None,
    min_risk: Annotated[float | None, typer.Option(help="Risk of at least this, in [0, 1].")] = None,
    max_risk: Annotated[float | None, typer.Option(help="Risk of at most this, in [0, 1].")] = None,
    start: Annotated[str | None, typer.Option("--from", help="ISO time, or nanoseconds, at which to begin.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="ISO time, or nanoseconds, at which to end.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Data set or fleet.")] = None,
    log: Annotated[list[str] | None, typer.Option(help="Log id.")] = None,
    detected: Annotated[
        list[str] | None,
        typer.Option(help="CLASS[:SCORE[:COUNT]]: one infrared picture shows so many, e.g. person:0.5:2. Repeatable."),
    ] = None,
    hardness_weight: Annotated[
        float, typer.Option(help="Share of hardness in the score, in [0, 1]; the rest is similarity.")
    ] = 0.0,
    version: Annotated[str | None, typer.Option(help="Answer as after an earlier run: `run-<run id>`.")] = None,
    top: Annotated[int, typer.Option(help="How many results.")] = 10,
) -> None:
    """Search a store. Without --text, --image or --scene the hardest scenes that pass the filters come first.

    The last line of stdout is one JSON object: {"results": [{scene_id, log_id, score, risk, tags, hardness, why}]},
    with --detected also `detections`, what jobs/predict_infrared.py --store found.
    """
    with exit_with_code():
        where = SceneFilter.parse(
            {
                "tags": tuple(tag or ()),
                "any_tags": tuple(any_tag or ()),
                "without_tags": tuple(without_tag or ()),
                "min_risk": min_risk,
                "max_risk": max_risk,
                "from_ns": _to_ns("--from", start),
                "to_ns": _to_ns("--to", end),
                "sources": tuple(source or ()),
                "log_ids": tuple(log or ()),
            },
            "options",
        )
        config = SearchConfig.parse({"top": top, "hardness_weight": hardness_weight}, "options")
        wanted = [Detected.of_option(form) for form in detected or ()]
        results = search_store(store, where, config, text, image, scene, version, wanted)
        stdout_console().print(results_table(results))
        if not results:
            print("no scene passes these filters; jobs/show_run.py says what the store holds", file=sys.stderr)
        print_figures({"results": results})


def _to_ns(option: str, value: str | None) -> int | None:
    """Nanoseconds since 1970 of an ISO time (UTC unless it says otherwise) or of a plain number of nanoseconds."""
    if value is None:
        return None
    if value.removeprefix("-").isdigit():
        return _within(option, value, int(value))
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(
            f"{option} {value!r}: expected an ISO time such as 2026-03-01T18:00 or nanoseconds"
        ) from error
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return _within(option, value, int(seconds * 1e9))


def _within(option: str, value: str, t_ns: int) -> int:
    if abs(t_ns) >= 1 << 63:
        raise ConfigError(f"{option} {value!r}: expected a time between the years 1678 and 2262")
    return t_ns


if __name__ == "__main__":
    app()
