"""Check the certificate of an upgraded SceneMiner again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[Path, typer.Option(help="Folder of an upgraded model, with certificate.json.")],
    base: Annotated[Path | None, typer.Option(help="Folder of the model that it grew from, to be asked too.")] = None,
) -> None:
    """Ask every other head of an upgraded model again, and compare with its certificate.

    The last line of stdout is one JSON object: model_id, base_model_id, head, siblings, outputs, base_checked, valid.

    Exit codes: 0 the certificate holds; 5 a file is missing or not the one that was certified; 7 an answer differs.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.pipelines.resources import connect_to_ray
        from system.training.certificate import verify_certificate

        connect_to_ray()
        certificate = verify_certificate(model, base)
        leave_ray()
        print_figures(
            {
                "model_id": certificate.model_id,
                "base_model_id": certificate.base_model_id,
                "head": certificate.head,
                "siblings": sorted({sibling.head for sibling in certificate.siblings}),
                "outputs": len(certificate.siblings),
                "base_checked": base is not None,
                "valid": True,
            }
        )


if __name__ == "__main__":
    app()
