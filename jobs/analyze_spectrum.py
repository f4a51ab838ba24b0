"""See where in the spectrum RGB and infrared features differ, and whether that is more than a nuisance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from system.pairs.pixels import InfraredMapping
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    pairs: Annotated[list[str], typer.Option(help="Folder of pairs, or a COCO file with `file_name2`. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the report, the figures and the table.")],
    tower: Annotated[
        str, typer.Option(help="`dinov2-packaged`, `timm:NAME` or `timm:NAME@FILE.safetensors`.")
    ] = "dinov2-packaged",
    blocks: Annotated[str, typer.Option(help="Counted from 0, e.g. `3,6,8,9`.")] = "all",
    height: Annotated[int, typer.Option(help="Pictures are resized to it; a multiple of the patch.")] = 238,
    width: Annotated[int, typer.Option(help="Pictures are resized to it; a multiple of the patch.")] = 322,
    controls: Annotated[
        str,
        typer.Option(help="RGB spoilt on purpose: `shift:PX`, `blur:PX`, `noise:SD`, `grey`; or `none`."),
    ] = "shift:4,shift:14,blur:2,noise:25,grey",
    max_pairs: Annotated[int | None, typer.Option(min=2, help="At most so many, evenly spaced.")] = None,
    reader: Annotated[str, typer.Option(help="Layout of the pairs, where it is not seen by itself.")] = "auto",
    infrared_range: Annotated[
        str | None,
        typer.Option(help="16 bits: `LOW,HIGH` of raw values; percentiles of each picture, if not given."),
    ] = None,
    store: Annotated[str | None, typer.Option(help="Whose table `spectra` is added to; OUT, if not given.")] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws of pairs.")] = 500,
    examples: Annotated[int, typer.Option(help="Pairs whose bands are drawn.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    max_bad_share: Annotated[float, typer.Option(help="Of the pairs, which may be unreadable.")] = 0.2,
    actors: Annotated[int | None, typer.Option(help="How many hold the tower; from the cluster, if not given.")] = None,
    threads: Annotated[int | None, typer.Option("--actor-threads", help="CPUs of each of them.")] = None,
) -> None:
    """Compare the features of both pictures of every pair, by block and radial band of spatial frequencies.

    Low is r <= 0.25, high r >= 0.75 of the shorter axis' highest frequency. A ratio is the mean over pairs and blocks
    of the high band's divergence over that of the low band's, with a 95 % interval over draws of pairs, of standardised
    features (as FreqKD's losses see them; raw and centred ones beside them). The same is measured between RGB and
    spoilt RGB, which no modality explains.

    OUT gets report.html, spectrum.json, spectra.parquet, skipped.jsonl and the Lance table `spectra`.

    The last line of stdout is one JSON object: pairs, blocks, ratio_mse, ratio_nmse, ratio_cosine {value, low, high},
    agreement {metric: agrees, told} with the paper's 2.4x, controls {name: metric}, skipped {code: pairs}, images,
    seconds, run_id, report, json, table.

    Exit codes: 0 done; 2 a wrong option; 3 no two readable pairs; 4 the store; 5 the tower; 6 too many bad pairs.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.pipelines.spectrum import SpectrumConfig, analyze_spectrum

        config = SpectrumConfig.parse(
            {
                "pairs": tuple(pairs),
                "reader": reader,
                "tower": options.absolute_place(tower),
                "blocks": None if blocks == "all" else tuple(part.strip() for part in blocks.split(",")),
                "height": height,
                "width": width,
                "controls": () if controls == "none" else tuple(part.strip() for part in controls.split(",")),
                "mapping": InfraredMapping.of_option(infrared_range),
                "max_pairs": max_pairs,
                "examples": examples,
                "draws": draws,
                "seed": seed,
                "max_bad_share": max_bad_share,
                "store": store,
                "pool": {"actors": actors, "threads_per_actor": threads},
            },
            "options",
        )
        with ConsoleProgress("measuring", "pairs") as progress:
            figures = analyze_spectrum(config, out, progress)
        leave_ray()
        print_figures(figures)


if __name__ == "__main__":
    app()
