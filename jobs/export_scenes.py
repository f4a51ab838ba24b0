"""Take mined scenes away: COCO, FiftyOne, nuScenes, MCAP, Parquet, WebDataset."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from system.export.run import ExportConfig, ExportReport, export_scenes
from system.pipelines.select_scenes import SceneQuery, rows_of_set, select_scenes
from system.report.console import ConsoleProgress, exit_with_code, print_figures
from system.store.detections import Detected

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    store: options.Store,
    out: Annotated[str, typer.Option(help="Folder or URI (s3://bucket/set) for the export; must be new.")],
    format_name: Annotated[
        str,
        typer.Option("--format", help="coco, fiftyone, nuscenes-tokens, nuscenes, mcap, parquet or webdataset."),
    ],
    scene_set: Annotated[
        str | None,
        typer.Option(
            "--set", help="Id of a saved set, or file of scene ids (a line each, or JSON); in place of a query."
        ),
    ] = None,
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
    top: Annotated[
        int | None,
        typer.Option(help="At most so many; if not given, all that pass the filters, or 100 of --text and the like."),
    ] = None,
    keyframe_hz: Annotated[
        float | None, typer.Option(help="At most so many pictures a second and camera; as mined, if not given.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Of the pictures, for the provenance.")] = "not stated",
    max_faulty_share: Annotated[float, typer.Option(help="Of scenes that may be left out.")] = 0.05,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Export the scenes of a query (the options of jobs/search_scenes.py) or of a set, with where they come from.

    Without query, filters and set: every scene of the store. A saved set is of the model and version that it was saved
    from, unless --version names another; of the newest version where that was removed. The folder appears when all is
    in it; export.json says what was exported, faults.jsonl what could not be. The last line of stdout is one JSON
    object: asked = written + faulty, incomplete, pictures, missing_pictures, boxes, faults, seconds, out.

    Exit codes: 0 done; 2 a wrong option, no scene, a place that is taken; 3 too many faulty; 4 the store.
    """
    with exit_with_code():
        where = options.scene_filter(tag, any_tag, without_tag, min_risk, max_risk, start, end, source, log)
        query = SceneQuery.parse(
            {
                "where": where,
                "text": text,
                "image": image,
                "scene": scene,
                "scene_set": scene_set,
                "detected": [Detected.of_option(form) for form in detected or ()],
                "detector": detector,
                "top": top,
                "hardness_weight": hardness_weight,
                "version": version,
            },
            "options",
        )
        config = ExportConfig.parse(
            {
                "overwrite": overwrite,
                "keyframe_hz": keyframe_hz,
                "max_faulty_share": max_faulty_share,
                "licence": licence,
                "version_tag": version,
                **rows_of_set(store, query),
            },
            "options",
        )
        scene_ids = select_scenes(store, query)
        with ConsoleProgress("exporting") as progress:
            progress.expect(len(scene_ids))

            def advance(report: ExportReport) -> None:
                progress.reached(report.written, report.faulty, report.pictures)

            report = export_scenes(store, scene_ids, format_name, out, config, query.told(), advance)
            for fault in report.first_faults:
                progress.note(f"{fault['level']} left out: {fault['code']}: {fault['message']}")
        print_figures(report.figures())


if __name__ == "__main__":
    app()
