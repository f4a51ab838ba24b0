"""A detection study as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from system.report.freqkd_study import figure_text, grid


def detection_markdown(result: Mapping[str, Any]) -> str:
    """Figures of each arm on each test set, and what they differ by."""
    budget = result["budget"]
    size = "x".join(map(str, budget["size"]))
    header = ["arm", *(f"{drift} px" for drift in result["drifts"])]
    parts = [
        "# What distillation is worth to a detector",
        f"{budget['runs']} runs. Each detector learnt from {budget['images_per_run']} views of "
        f"{budget['train_pictures']} infrared pictures ({budget['epochs']} epochs) at {size}, on a frozen backbone "
        "that was distilled from pairs which had drifted by so many pixels. Points of 100; intervals are of 95 %, over "
        "draws of seeds and of test pictures together; differences are paired.",
    ]
    for name, told in result["sets"].items():
        parts.append(f"## {name}: {budget['test_pictures'][name]} pictures")
        for figure in ("ap50", "ap", *result["classes"]):
            title = {"ap50": "AP50", "ap": "AP"}.get(figure, f"AP50 of {figure}")
            rows = {
                arm: [figure_text(row[str(drift)][figure]) for drift in result["drifts"]]
                for arm, row in told["arms"].items()
            }
            parts += [f"### {title}", grid(header, rows)]
        for kind, title in (
            ("against_none", "AP50 over no distillation"),
            ("ours_against", f"AP50 of `{result['ours']}` over each rival"),
        ):
            rows = {
                arm: [figure_text(row[str(drift)]["ap50"], is_signed=True) for drift in result["drifts"]]
                for arm, row in told["differences"][kind].items()
            }
            if rows:
                parts += [f"### {title}", grid(header, rows)]
    return "\n\n".join(parts) + "\n"
