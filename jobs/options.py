"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from system.errors import ConfigError

if TYPE_CHECKING:
    from system.pairs.mask_set import MaskSource
    from system.store.filters import SceneFilter

Logs = Annotated[list[str], typer.Option(help="Folder, file or URI (s3://...) with logs. May be repeated.")]
Tower = Annotated[str, typer.Option(help="`packaged`, `open_clip:NAME/PRETRAINED` or `transformers:NAME_OR_PATH`.")]
Taxonomy = Annotated[str | None, typer.Option(help="TOML file with other tags than the 20 of ours.")]
Labels = Annotated[
    str | None, typer.Option(help="Table of jobs/label_scenes.py; without it, scenes are labelled by --rules.")
]
Rules = Annotated[str | None, typer.Option(help="TOML file of label rules in place of ours.")]
Cache = Annotated[str, typer.Option(help="Folder or URI for the tower's features, seen by every worker.")]
WindowS = Annotated[float, typer.Option(help="Length of a scene window, in seconds.")]
StrideS = Annotated[float | None, typer.Option(help="From window to window; the length, if not given.")]
KeyframeHz = Annotated[float, typer.Option(help="At most so many pictures a second and camera are used.")]
TestShare = Annotated[float, typer.Option(help="Of the scenes, kept for tests; 0 where you test on other logs.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training scenes, at most.")]
Patience = Annotated[int, typer.Option(help="End after so many epochs without a lower validation loss.")]
BatchSize = Annotated[int, typer.Option(help="Scenes of one step, over all workers together.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate of AdamW.")]
WeightDecay = Annotated[float, typer.Option(help="Weight decay of AdamW.")]
HiddenCells = Annotated[float, typer.Option(help="Share of bird's-eye cells hidden in a training step.")]
Seed = Annotated[int, typer.Option(help="Of the order of the scenes and of the hidden cells.")]
Workers = Annotated[int, typer.Option(min=1, help="Ray Train workers; the result does not depend on it.")]
Start = Annotated[
    str | None,
    typer.Option(
        help="Folder of a trained model to go on from, with its backbone, head and sizes; or `transformers:NAME` of an "
        "RF-DETR, whose head is taken."
    ),
]
Ignore = Annotated[
    str | None,
    typer.Option(help="Comma-separated classes, none of --classes, in whose boxes nothing is right or wrong."),
]
Threads = Annotated[int, typer.Option("--worker-threads", min=1, help="CPUs of each of them.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Give every worker a GPU.")]

Store = Annotated[str, typer.Option(help="Store that jobs/mine_fleet.py filled.")]
Text = Annotated[str | None, typer.Option(help='What to look for, e.g. "pedestrian crossing at night".')]
ImageQuery = Annotated[str | None, typer.Option(help="Path or URI of a picture to find the like of.")]
SceneQuery = Annotated[str | None, typer.Option(help="Id of a scene to find the like of.")]
Tags = Annotated[list[str] | None, typer.Option(help="The scene has this tag. May be repeated: all of them.")]
AnyTags = Annotated[list[str] | None, typer.Option(help="The scene has at least one of these.")]
WithoutTags = Annotated[list[str] | None, typer.Option(help="The scene does not have this tag.")]
MinRisk = Annotated[float | None, typer.Option(help="Risk of at least this, in [0, 1].")]
MaxRisk = Annotated[float | None, typer.Option(help="Risk of at most this, in [0, 1].")]
From = Annotated[str | None, typer.Option("--from", help="ISO time, or nanoseconds, at which to begin.")]
To = Annotated[str | None, typer.Option("--to", help="ISO time, or nanoseconds, at which to end.")]
Sources = Annotated[list[str] | None, typer.Option(help="Data set or fleet.")]
LogIds = Annotated[list[str] | None, typer.Option(help="Log id.")]
DetectedObjects = Annotated[
    list[str] | None,
    typer.Option(
        "--detected",
        help="CLASS[:SCORE[:COUNT]]: one infrared picture shows so many, e.g. person:0.5:2. Repeatable.",
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(help="Of --detected: whose findings, by its id or the beginning of it; the newest, if not given."),
]
HardnessWeight = Annotated[
    float, typer.Option(help="Share of hardness in the score, in [0, 1]; the rest is similarity.")
]
Version = Annotated[
    str | None, typer.Option(help="Answer as after an earlier run, `run-RUN_ID`, or night, `night-DATE`.")
]

Masks = Annotated[
    str,
    typer.Option(
        help="`own`: label pictures (MFNet, MSRS) or outlines (COCO) of the set; `boxes`: pseudo-masks from its boxes; "
        "or a folder of label pictures, nested as the pictures are, or of names that occur once."
    ),
]
MaskClasses = Annotated[
    str | None, typer.Option(help="Of a folder of label pictures: names by number, comma-separated, background first.")
]
Pseudo = Annotated[str, typer.Option(help="What made the masks, where nobody drew them: all figures then say so.")]


def names(text: str | None, lower: bool = False) -> tuple[str, ...]:
    """Of an option with commas; none, if it is not given."""
    return tuple((part.lower() if lower else part).strip() for part in text.split(",")) if text else ()


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Of an option with commas; None, if it is not given.

    Raises:
        ConfigError: something else than whole numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected whole numbers with commas between them") from error


def absolute_place(name: str | None) -> str | None:
    """A folder, or the file of `NAME@FILE`, by its whole path, as workers find it; any other name as it is."""
    if name is None or Path(name).is_dir():
        return None if name is None else str(Path(name).absolute())
    start, at, file = name.partition("@")
    return f"{start}@{Path(file).absolute()}" if at and "://" not in file else name


def mask_source(masks: str, mask_classes: str | None, pseudo: str) -> MaskSource:
    """Of the three options above."""
    from system.pairs.mask_set import MaskSource

    given = {"kind": masks, "classes": names(mask_classes, lower=True), "pseudo": pseudo.strip()}
    return MaskSource.parse(given, "options")


def scene_filter(
    tag: Sequence[str] | None,
    any_tag: Sequence[str] | None,
    without_tag: Sequence[str] | None,
    min_risk: float | None,
    max_risk: float | None,
    start: str | None,
    end: str | None,
    source: Sequence[str] | None,
    log: Sequence[str] | None,
) -> SceneFilter:
    """Of the options above.

    Raises:
        ConfigError: which of them is wrong.
    """
    from system.store.filters import SceneFilter

    return SceneFilter.parse(
        {
            "tags": tuple(tag or ()),
            "any_tags": tuple(any_tag or ()),
            "without_tags": tuple(without_tag or ()),
            "min_risk": min_risk,
            "max_risk": max_risk,
            "from_ns": _to_ns("--from", start),
            "to_ns": _to_ns("--to", end),
            "sources": tuple(source or ()),
            "log_ids": tuple(log or ()),
        },
        "options",
    )


def _to_ns(option: str, value: str | None) -> int | None:
    """Nanoseconds since 1970 of an ISO time (UTC unless it says otherwise) or of a plain number of nanoseconds."""
    if value is None:
        return None
    if value.removeprefix("-").isdigit():
        return _within(option, value, int(value))
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(
            f"{option} {value!r}: expected an ISO time such as 2026-03-01T18:00 or nanoseconds"
        ) from error
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return _within(option, value, int(seconds * 1e9))


def _within(option: str, value: str, t_ns: int) -> int:
    if abs(t_ns) >= 1 << 63:
        raise ConfigError(f"{option} {value!r}: expected a time between the years 1678 and 2262")
    return t_ns
