"""Search mined scenes by text, picture, scene, tags, risk and time."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jobs import options
from system.pipelines.search import search_store
from system.report.console import exit_with_code, print_figures, stdout_console
from system.report.terminal import results_table
from system.store.detections import Detected
from system.store.search import SearchConfig

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    store: options.Store,
    text: options.Text = None,
    image: options.ImageQuery = None,
    scene: options.SceneQuery = None,
    tag: options.Tags = None,
    any_tag: options.AnyTags = None,
    without_tag: options.WithoutTags = None,
    min_risk: options.MinRisk = None,
    max_risk: options.MaxRisk = None,
    start: options.From = None,
    end: options.To = None,
    source: options.Sources = None,
    log: options.LogIds = None,
    detected: options.DetectedObjects = None,
    detector: options.Detector = None,
    hardness_weight: options.HardnessWeight = 0.0,
    version: options.Version = None,
    top: Annotated[int, typer.Option(help="How many results.")] = 10,
) -> None:
    """Search a store. Without --text, --image or --scene the hardest scenes that pass the filters come first.

    The last line of stdout is one JSON object: {"results": [{scene_id, log_id, score, risk, tags, hardness, why}]},
    with --detected also detector_id and `detections`, what jobs/predict_infrared.py --store found with that detector.
    """
    with exit_with_code():
        where = options.scene_filter(tag, any_tag, without_tag, min_risk, max_risk, start, end, source, log)
        config = SearchConfig.parse({"top": top, "hardness_weight": hardness_weight}, "options")
        wanted = [Detected.of_option(form) for form in detected or ()]
        results = search_store(store, where, config, text, image, scene, version, wanted, detector)
        stdout_console().print(results_table(results))
        if not results:
            print("no scene passes these filters; jobs/show_run.py says what the store holds", file=sys.stderr)
        print_figures({"results": results})


if __name__ == "__main__":
    app()
