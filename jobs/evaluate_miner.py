"""Judge a SceneMiner on scenes that it has not learnt from, beside zero-shot and linear probes."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from jobs import options
from system.errors import ConfigError
from system.logs.windows import WindowConfig
from system.pipelines.ray_environment import leave_ray, set_ray_environment
from system.report.console import ConsoleProgress, exit_with_code, print_figures, stdout_console
from system.report.terminal import evaluation_table

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="Folder of a trained SceneMiner.")],
    frames: Annotated[
        list[str] | None, typer.Option(help="CSV table of tagged pictures: path, dataset, sequence, tags.")
    ] = None,
    logs: Annotated[list[str] | None, typer.Option(help="Folder, file or URI with logs. May be repeated.")] = None,
    critical: Annotated[
        str | None, typer.Option(help="CSV with log_id (or benchmark_id) and tags: which logs people call `critical`.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="All --frames and --logs are one row: where each alone holds few scenes.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Bootstrap draws of scenes for the 95 % intervals.")] = 1000,
    tower: options.Tower = "packaged",
    labels: options.Labels = None,
    rules: options.Rules = None,
    own_labels: Annotated[
        str | None,
        typer.Option(help="CSV with scene_id (or log id), tag, value, for users' own heads; of one row."),
    ] = None,
    cache: options.Cache = "out/features",
    window_s: options.WindowS = 4.0,
    stride_s: options.StrideS = None,
    keyframe_hz: options.KeyframeHz = 2.0,
) -> None:
    """Judge tags, retrieval, risk, forecast and hardness; each --frames and --logs is a row, or all are one.

    Scenes of a town, sequence or log that the model was trained or chosen on are left out (training.json beside it
    names them). Linear probes are trained on the model's own training scenes, cut and labelled as they were then; what
    is judged, by the options here. Intervals come from drawing whole towns,
    sequences or logs, or single scenes where there are fewer than ten of those (`intervals_over` says which).

    The last line of stdout is one JSON object: the figures of the first row, and rows {source: figures}. A figure is
    {value, low, high}: tag_map, tag_micro_f1 (and ..._zero_shot, ..._linear_probe), tag_map_over_zero_shot,
    tag_map_over_linear_probe, own_tag_map, ndcg_at_10, recall_at_10 (of tag prompts; descriptions_... of the makers'
    words), risk_spearman, risk_top_decile, ade_ratio, min_ade_ratio,
    hardness_critical_auc.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input or no scene left; 5 the model.
    """
    with exit_with_code():
        set_ray_environment()
        # Ray reads its settings when it is imported.
        from system.training.evaluate import Evaluator
        from system.training.examples import SourceConfig

        sources = [*(frames or ()), *(logs or ())]
        if not sources:
            raise ConfigError("--frames or --logs is missing: what is the model to be judged on?")
        if own_labels and len(sources) > 1 and not together:
            raise ConfigError("--own-labels names scenes of one row: give one of --frames and --logs, or --together")
        source = SourceConfig.parse(
            {
                "logs": tuple(sources),
                "tower": tower,
                "labels": labels,
                "rules": rules,
                "own_labels": own_labels,
                "cache": cache,
                "windows": WindowConfig.of_options(window_s, stride_s, keyframe_hz),
            },
            "options",
        )
        rows = {}
        with ConsoleProgress("reading") as progress:
            evaluator = Evaluator(model, source, progress, rounds, os.cpu_count() or 1)
            for uris in [sources] if together else [[uri] for uri in sources]:
                rows[" + ".join(uris)] = evaluator.judge(uris, critical)
        leave_ray()
        console = stdout_console()
        for uri, row in rows.items():
            console.print(evaluation_table(f"{uri}: {row.scenes} scenes of {row.groups} groups", row.as_json()))
            for note in row.notes:
                console.print(f"- {note}", markup=False)
        figures = {uri: row.as_json() for uri, row in rows.items()}
        print_figures({**next(iter(figures.values())), "rows": figures})


if __name__ == "__main__":
    app()
