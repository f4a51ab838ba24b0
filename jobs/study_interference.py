"""What an upgrade of one head does to the others: ours beside three usual ways."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from system.logs.windows import WindowConfig
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures, stdout_console
from system.report.terminal import study_table

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    logs: options.Logs,
    base: Annotated[str, typer.Option(help="Folder of the model whose head is upgraded; it is not changed.")],
    out: Annotated[Path, typer.Option(help="Folder of the study; an unfinished one goes on.")],
    head: Annotated[str, typer.Option(help="`tags`, `embedding`, `risk` or `forecast`.")] = "tags",
    arms: Annotated[
        list[str] | None,
        typer.Option(help="Comma-separated: `ours`, `adapter_random`, `adapter_zero`, `unfrozen`; all, if not given."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 5,
    tower: options.Tower = "packaged",
    labels: options.Labels = None,
    rules: options.Rules = None,
    cache: options.Cache = "out/features",
    test_share: options.TestShare = 0.15,
    window_s: options.WindowS = 4.0,
    stride_s: options.StrideS = None,
    keyframe_hz: options.KeyframeHz = 2.0,
    epochs: options.Epochs = 20,
    patience: options.Patience = 6,
    batch_size: options.BatchSize = 32,
    learning_rate: options.LearningRate = 3e-4,
    threads: options.Threads = 1,
) -> None:
    """Upgrade a head in four ways with several seeds, and measure on test scenes what became of its siblings.

    `ours` trains a private reader; `adapter_random` and `adapter_zero` put an adapter of the same size into the shared
    stream besides, with the siblings' own weights frozen; `unfrozen` trains everything.

    The last line of stdout is one JSON object: head, scenes, and arms {arm: max_abs_change, sibling_metric_drop
    {mean, low, high} in points, of errors as a share, siblings, head_metric_gain, trained_parameters, seeds}. The same
    lies in study.json, drawn in study.png.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input or no test scene; 5 the model.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.training.config import TrainConfig
        from system.training.examples import SourceConfig
        from system.training.study import ARMS, StudyConfig, study_interference

        source = SourceConfig.parse(
            {
                "logs": tuple(logs),
                "tower": tower,
                "labels": labels,
                "rules": rules,
                "cache": cache,
                "test_share": test_share,
                "windows": WindowConfig.of_options(window_s, stride_s, keyframe_hz),
            },
            "options",
        )
        config = TrainConfig.parse(
            {"epochs": epochs, "patience": patience, "batch_size": batch_size, "learning_rate": learning_rate},
            "options",
        )
        study = StudyConfig(
            base=base,
            head=head,
            arms=tuple(arm.strip() for text in arms for arm in text.split(",")) if arms else ARMS,
            seeds=seeds,
            threads=threads,
        )
        with ConsoleProgress("reading") as progress:
            result = study_interference(source, study, config, out, progress)
        leave_ray()
        stdout_console().print(study_table(result))
        print_figures(result)


if __name__ == "__main__":
    app()
