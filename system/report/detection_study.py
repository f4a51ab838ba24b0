"""A study of detection or segmentation as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from system.report.freqkd_study import figure_text, grid

_TITLES = {"ap50": "AP50", "ap": "AP", "miou": "mIoU"}
_OF_CLASS = {"ap50": "AP50", "miou": "IoU"}


def detection_markdown(result: Mapping[str, Any]) -> str:
    """Figures of each arm on each test set, and what they differ by."""
    budget = result["budget"]
    size = "x".join(map(str, budget["size"]))
    header = ["arm", *(f"{drift} px" for drift in result["drifts"])]
    headline = result["figures"][0]
    of_class = _OF_CLASS[headline]
    parts = [
        f"# What distillation is worth to a {result['noun']}",
        f"{budget['runs']} runs. Each {result['noun']} learnt from {budget['images_per_run']} views of "
        f"{budget['train_pictures']} infrared pictures ({budget['epochs']} epochs) at {size}, on a frozen backbone "
        "that was distilled from pairs which had drifted by so many pixels. Points of 100; intervals are of 95 %, over "
        "draws of seeds and of test pictures together; differences are paired.",
    ]
    if result["masks"]:
        parts.append(f"Masks: {result['masks']}.")
    for name, told in result["sets"].items():
        parts.append(f"## {name}: {budget['test_pictures'][name]} pictures")
        if seen := result.get("seen_in_training", {}).get(name):
            parts.append(
                f"{seen} of these pictures were learnt from, by students without labels or as copies by the "
                f"{result['noun']}s: figures on them are too high."
            )
        for figure in (*result["figures"], *result["classes"]):
            title = _TITLES.get(figure, f"{of_class} of {figure}")
            rows = {
                arm: [figure_text(row[str(drift)][figure]) for drift in result["drifts"]]
                for arm, row in told["arms"].items()
            }
            parts += [f"### {title}", grid(header, rows)]
        for kind, title in (
            ("against_none", f"{_TITLES[headline]} over no distillation"),
            ("ours_against", f"{_TITLES[headline]} of `{result['ours']}` over each rival"),
        ):
            rows = {
                arm: [figure_text(row[str(drift)][headline], is_signed=True) for drift in result["drifts"]]
                for arm, row in told["differences"][kind].items()
            }
            if rows:
                parts += [f"### {title}", grid(header, rows)]
    return "\n\n".join(parts) + "\n"
