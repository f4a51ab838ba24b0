"""A FreqKD study as tables, as a page of Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

Figure = Mapping[str, Any]


def freqkd_table(result: Mapping[str, Any]) -> Table:
    """Mean patch AP of each arm at each drift, in points of 100."""
    table = Table(title="mean patch AP", title_justify="left")
    for name in _header(result):
        table.add_column(name, no_wrap=name == "arm", justify="left" if name == "arm" else "right")
    for arm, row in result["arms"].items():
        table.add_row(arm, *(figure_text(row[str(drift)]) for drift in result["drifts"]))
    return table


def _warnings(result: Mapping[str, Any]) -> list[str]:
    if not (seen := result.get("seen_in_training")):
        return []
    return [f"{seen} of the test pictures are copies of training pictures: figures on them are too high."]


def study_markdown(result: Mapping[str, Any], plot: str) -> str:
    """The whole study to read: figures, differences, classes, retrieval, what it cost."""
    budget = result["budget"]
    size = "x".join(map(str, budget["size"]))
    parts = [
        "# What each part of FreqKD does",
        f"{budget['runs']} runs. Each was trained on {budget['images_per_run']} pairs ({budget['steps_per_run']} steps "
        f"of {budget['batch_size']}, {budget['epochs']} epochs) at {size}, in the same order and with the same "
        f"settings, and judged by a linear probe on {budget['test_pictures']} test pictures that had not drifted. "
        "Figures are points of 100; intervals are of 95 %, over draws of seeds and of test pictures together.",
        *_warnings(result),
        f"![patch AP against drift]({plot})",
        "## Mean patch AP",
        grid(_header(result), {arm: _cells(row, result) for arm, row in result["arms"].items()}),
    ]
    differences = result["differences"]
    if differences["against_none"]:
        rows = {arm: _cells(row, result, is_signed=True) for arm, row in differences["against_none"].items()}
        parts += ["## Gain over no distillation (paired)", grid(_header(result), rows)]
    if differences["ours_against"]:
        rows = {arm: _cells(row, result, is_signed=True) for arm, row in differences["ours_against"].items()}
        parts += [f"## `{result['ours']}` minus each rival (paired)", grid(_header(result), rows)]
    for figure in (*result["classes"], "retrieval_r1", "retrieval_r5"):
        rows = {
            arm: [figure_text(row[str(d)][figure]) for d in result["drifts"]] for arm, row in result["arms"].items()
        }
        parts += [f"## {figure.replace('retrieval_r', 'retrieval, R@')}", grid(_header(result), rows)]
    if result["registration"]:
        rows = {
            f"{drift} px": [
                f"{100 * found['moved_share']:.0f} %",
                *(f"{found[key][q]:.0f}" for key in ("injected_px", "error_px") for q in ("p50", "p90")),
            ]
            for drift, found in result["registration"].items()
        }
        header = ["drift", "pairs moved", "injected p50", "p90", "left p50", "p90"]
        parts += ["## What registering found (first seed, pixels)", grid(header, rows)]
    return "\n\n".join(parts) + "\n"


def write_plot(result: Mapping[str, Any], file: Path) -> None:
    """Mean patch AP against drift, one line an arm, with intervals."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    drifts, arms = result["drifts"], result["arms"]
    # The colours of a longer list come in pairs that are hard to tell apart.
    colors = colormaps["tab10" if len(arms) <= 10 else "tab20"]
    reach = max(drifts) - min(drifts) or 1
    for n, (arm, row) in enumerate(arms.items()):
        told = [row[str(drift)] for drift in drifts]
        known = [(drift, cell) for drift, cell in zip(drifts, told, strict=True) if cell["mean"] is not None]
        if not known:
            continue
        means = [cell["mean"] for _, cell in known]
        # An interval of a mean need not hold it where a draw of pictures favours one side.
        low, high = (
            [max(0.0, sign * (cell[side] - cell["mean"])) for _, cell in known]
            for sign, side in ((-1, "low"), (1, "high"))
        )
        axis.errorbar(
            [drift + (n - (len(arms) - 1) / 2) * reach * 0.006 for drift, _ in known],
            means,
            (low, high),
            label=arm,
            color=colors(n % colors.N),
            linewidth=2.2 if arm == result["ours"] else 1.2,
            linestyle=":" if row[str(drifts[0])]["seeds"] == 1 and arm == "none" else "-",
            marker="o",
            markersize=3,
            capsize=2,
            elinewidth=0.7,
        )
    axis.set_xlabel("drift of the training pairs (pixels)")
    axis.set_xticks(drifts)
    axis.set_ylabel("mean patch AP (points)")
    axis.set_title("Infrared features after distillation, 95 % over seeds and test pictures")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=110)


def _header(result: Mapping[str, Any]) -> list[str]:
    return ["arm", *(f"{drift} px" for drift in result["drifts"])]


def _cells(row: Mapping[str, Figure], result: Mapping[str, Any], is_signed: bool = False) -> list[str]:
    return [figure_text(row[str(drift)], is_signed) for drift in result["drifts"]]


def figure_text(figure: Figure, is_signed: bool = False) -> str:
    """A mean and its interval."""
    if figure["mean"] is None:
        return "-"
    sign = "+" if is_signed else ""
    return f"{figure['mean']:{sign}.1f} ({figure['low']:{sign}.1f} to {figure['high']:{sign}.1f})"


def grid(header: list[str], rows: Mapping[str, list[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items())])
