"""Judge an infrared segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[str, typer.Option(help="COCO file of infrared pictures, a corpus of pairs, or pictures.")],
    model: Annotated[str, typer.Option(help="Folder of jobs/train_segmenter.py.")],
    masks: options.Masks = "own",
    mask_classes: options.MaskClasses = None,
    pseudo: options.Pseudo = "",
    images: Annotated[str | None, typer.Option(help="Folder of the COCO file's pictures, if not beside it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures, charts and the sheet of worst pictures.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Bootstrap draws of pictures.")] = 1000,
    worst: Annotated[int, typer.Option(help="Pictures of the sheet.")] = 12,
    max_bad_share: Annotated[float, typer.Option(min=0, max=1, help="Of pictures that may be unreadable.")] = 0.05,
    threads: options.Threads = 1,
) -> None:
    """Intersection over union of a segmenter, with intervals over pictures. Pictures that it learnt from are refused.

    The last line of stdout is one JSON object, in points of 100: miou and miou_objects {value, low, high}, classes
    {iou, precision, recall, pixels}, pixel_accuracy, confusion, masks (what is judged by), pseudo, counts,
    seen_in_training (pictures that it or its backbone learnt from as copies or without labels; null: not known).

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input; 5 the model.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.training.evaluate_detector import JudgeConfig
        from system.training.evaluate_segmenter import judge_segmenter

        config = JudgeConfig.parse({"rounds": rounds, "errors": worst, "max_bad_share": max_bad_share}, "options")
        where = options.mask_source(masks, mask_classes, pseudo)
        with ConsoleProgress("segmenting", "pictures") as progress:
            result = judge_segmenter(data, where, images, model, out, config, threads, progress)
        leave_ray()
        print_figures(result)


if __name__ == "__main__":
    app()
