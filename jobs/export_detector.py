"""Write an infrared detector as ONNX."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from system.report.console import exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="Folder of jobs/train_detector.py.")],
    out: Annotated[Path, typer.Option(help="The .onnx file; must be new.")],
    images: Annotated[
        list[str] | None, typer.Option(help="Pictures, or folders of them, to compare with torch on.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="So many of them.")] = 8,
) -> None:
    """Export, and compare with torch where pictures are given: more than 1e-3 of a score, or a pixel of a box, fails.

    The last line of stdout is one JSON object: out, bytes, classes, size, pictures, difference {boxes_px, scores}.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable pictures; 5 the model, or an export that answers otherwise.
    """
    with exit_with_code():
        import numpy as np

        from system.errors import ConfigError, ModelError
        from system.infrared.detector import Detector
        from system.infrared.export import export_onnx, largest_difference
        from system.pairs.files import list_pictures
        from system.pairs.pixels import read_infrared
        from system.pairs.resize import fit_picture

        if out.exists():
            raise ConfigError(f"--out {out}: exists already and is never overwritten; choose another file")
        detector = Detector.load(model)
        uris = list_pictures(images)[:count] if images else []
        mapping = detector.config.mapping
        pictures = [fit_picture(read_infrared(uri, mapping).pixels_HW, detector.size) for uri in uris]
        partial = out.with_name(f".{out.stem}.partial.onnx")
        try:
            export_onnx(detector, partial)
            difference = largest_difference(detector, partial, np.stack(pictures)) if pictures else None
            if difference and not (difference["scores"] <= 1e-3 and difference["boxes_px"] <= 1):
                raise ModelError(f"{out}: was not written, because it answers otherwise than torch by {difference}")
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
        if difference is None:
            print("not compared with torch; --images names pictures to compare on", file=sys.stderr)
        print_figures(
            {
                "out": str(out),
                "bytes": out.stat().st_size,
                "classes": list(detector.config.classes),
                "size": list(detector.size),
                "pictures": len(pictures),
                "difference": difference,
            }
        )


if __name__ == "__main__":
    app()
