"""Ask a running server: search scenes, or detect in infrared pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from serve.client import QueryClient, what_is_wrong
from serve.models import Filters, Weights
from system.errors import ConfigError
from system.report.console import exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
Url = Annotated[str, typer.Option(help="Of the server.")]
Token = Annotated[
    str, typer.Option(envvar="NIGHTMINER_TOKEN", help="Better in the environment than on a command line.")
]


@app.command()
def search(
    token: Token,
    url: Url = "http://127.0.0.1:8000",
    text: Annotated[str | None, typer.Option(help='What to look for, e.g. "pedestrian crossing at night".')] = None,
    image: Annotated[Path | None, typer.Option(help="Picture to find the like of.")] = None,
    scene: Annotated[str | None, typer.Option(help="Id of a scene to find the like of.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="The scene has this tag. May be repeated: all of them.")] = None,
    log: Annotated[list[str] | None, typer.Option(help="Log id.")] = None,
    min_risk: Annotated[float | None, typer.Option(help="Risk of at least this, in [0, 1].")] = None,
    hardness_weight: Annotated[float, typer.Option(min=0, max=1, help="Share of hardness in the score.")] = 0.0,
    as_of: Annotated[str | None, typer.Option(help="As after an earlier run: `run-<run id>`.")] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many results.")] = 10,
) -> None:
    """Without --text, --image or --scene the hardest scenes that pass. The last line of stdout is one JSON object."""
    with exit_with_code(), QueryClient(url, token) as client:
        try:
            where = Filters(tags=tag or [], logs=log or [], min_risk=min_risk)
        except ValidationError as error:
            raise ConfigError(what_is_wrong(error)) from error
        weights = Weights(similarity=1 - hardness_weight, hardness=hardness_weight)
        hits = client.pages(top, text=text, image=image, scene=scene, where=where, weights=weights, as_of=as_of)
        rows = [hit.model_dump(mode="json") for hit in hits]
        for row in rows:
            told = f"{row['score']['total']:.3f}  {row['scene']['scene_id']}  {row['scene']['log_id']}"
            print(f"{told}  {row['score']['why']}")
        print_figures({"results": rows})


@app.command()
def detect(
    pictures: Annotated[list[Path], typer.Argument(help="Infrared pictures.")],
    token: Token,
    url: Url = "http://127.0.0.1:8000",
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Boxes of at least this score.")] = 0.3,
) -> None:
    """Boxes in infrared pictures. The last line of stdout is one JSON object."""
    with exit_with_code(), QueryClient(url, token) as client:
        answer = client.detect(pictures, min_score)
        for picture in answer.pictures:
            told = picture.problem.detail if picture.problem else f"{len(picture.detections)} boxes"
            print(f"{picture.name}: {told}")
        print_figures(answer.model_dump(mode="json"))


if __name__ == "__main__":
    app()
