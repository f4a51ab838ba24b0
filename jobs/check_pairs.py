"""Check corpora of RGB-infrared pairs before they are trained on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from system.pairs.pixels import InfraredMapping
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    pairs: Annotated[
        list[str],
        typer.Option(
            help="Folder, COCO file with `file_name2`, list of names, or RGB_FOLDER::INFRARED_FOLDER. Repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the findings and the contact sheets.")],
    reader: Annotated[str, typer.Option(help="Layout of the pairs, where it is not seen by itself.")] = "auto",
    infrared_range: Annotated[
        str | None,
        typer.Option(help="16 bits: `LOW,HIGH` of raw values; percentiles of each picture, if not given."),
    ] = None,
    sheet_pairs: Annotated[int, typer.Option(help="Pairs on each contact sheet; 0 for no sheet.")] = 24,
) -> None:
    """Count pairs, find what is wrong with them, measure their misalignment, and draw a contact sheet to look at.

    OUT gets `pairs.parquet` (a row for each pair), `faults.jsonl`, `summary.json` and a contact sheet for each corpus.
    Misalignment is one translation for each pair, from edges, with a confidence; parallax, rotation and scale are not
    seen. Copies are looked for over all corpora given, so name the splits of one corpus together.

    The last line of stdout is one JSON object: pairs, unreadable, unmatched, duplicates, sheets, seconds, and for each
    of the corpora: reader, why, sizes, faults, light, boxes, alignment, shift, notes.

    Exit codes: 0 done, whatever was found; 2 a wrong option; 3 nothing to read.
    """
    started_s = time.monotonic()
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.pipelines.check_pairs import CheckPairsConfig, check_pairs

        config = CheckPairsConfig.parse(
            {
                "pairs": tuple(pairs),
                "reader": reader,
                "mapping": InfraredMapping.of_option(infrared_range),
                "sheet_pairs": sheet_pairs,
            },
            "options",
        )
        with ConsoleProgress("checking", "pairs") as progress:
            figures = check_pairs(config, out, progress)
        leave_ray()
        print_figures(figures | {"seconds": round(time.monotonic() - started_s, 1)})


if __name__ == "__main__":
    app()
