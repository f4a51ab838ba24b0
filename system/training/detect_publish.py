"""What a training leaves beside the weights: curves, sample pictures, a record and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import SerializeAsAny

from system.config import FrozenConfig
from system.errors import ModelError
from system.infrared.detector import InfraredModel
from system.infrared.detector_config import InfraredModelConfig
from system.infrared.detector_trainer import DetectorTrainConfig
from system.pairs.masks import PSEUDO
from system.training.backbone_export import BACKBONE_WEIGHTS_NAME, loading_lines, write_backbone
from system.training.infrared_task import InfraredTask
from system.training.publish import CARD_NAME, CURVES_NAME, HISTORY_NAME, TENSORBOARD_NAME

DETECT_NAME = "training.json"


class DetectRecord(FrozenConfig):
    """Where a detector or a segmenter comes from.

    start, start_id: what it began with in place of chance, and its id where it is a model of ours.
    objects: of each class that it learnt from; pixels, for a segmenter. ignored: classes in whose boxes nothing was
    right or wrong. masks: what its masks are, "" for a detector.
    figures: of the last epoch. skipped: why, for each picture.
    """

    detector: SerializeAsAny[InfraredModelConfig]
    config: DetectorTrainConfig
    train: tuple[str, ...]
    val: str | None
    licence: str
    start: str | None = None
    start_id: str | None = None
    objects: dict[str, int]
    ignored: tuple[str, ...] = ()
    masks: str = ""
    pictures: int
    data_sha256: str
    trained_parameters: int
    figures: dict[str, float]
    skipped: tuple[str, ...]
    left_out: int
    seconds: float
    created: str
    commit: str
    libraries: dict[str, str]


def write_model(
    folder: Path, task: InfraredTask, model: InfraredModel, record: DetectRecord, history: Sequence[Mapping[str, float]]
) -> None:
    """Fill a new folder.

    Raises:
        ModelError: it cannot be written.
    """
    model.save(folder)
    try:
        (folder / DETECT_NAME).write_text(record.model_dump_json(indent=1) + "\n", "utf-8")
        _write_history(folder, history)
        if _is_backbone_its_own(record.detector):
            write_backbone(folder, model.backbone)
        (folder / CARD_NAME).write_text(_card(task, model, record), "utf-8")
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _is_backbone_its_own(config: InfraredModelConfig) -> bool:
    """Whether its weights lie nowhere else: it learnt too, or was merged at another factor than its distillation's."""
    return not config.is_frozen or config.merge is not None


def _write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    # Both take seconds to import, and workers import this module too.
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

    (folder / HISTORY_NAME).write_text(json.dumps(list(history), indent=1) + "\n", "utf-8")
    names = [name for name in history[-1] if name != "epoch"]
    figure = Figure(figsize=(3.6 * len(names), 3.0), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        rows = [(row["epoch"], row[name]) for row in history if name in row]
        axis.plot(*zip(*rows, strict=True), color="#cc6677" if name.startswith("val") else "#4477aa", marker=".")
        axis.set(title=name, xlabel="epoch")
        axis.set_ylim(bottom=0)
    figure.savefig(folder / CURVES_NAME, dpi=110)
    with SummaryWriter(str(folder / TENSORBOARD_NAME)) as writer:
        for row in history:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(row["epoch"]))


def _card(task: InfraredTask, model: InfraredModel, record: DetectRecord) -> str:
    detector, config = record.detector, record.config
    backbone = "frozen" if detector.is_frozen else f"trained at {config.backbone_factor:g} of the head's learning rate"
    masks = f"Masks: {record.masks}. " if record.masks else ""
    if record.masks.startswith(PSEUDO):
        masks += "Figures tell how well the model agrees with these, not with what is there. "
    unit = "pixels of " if record.masks else ""
    merged = "" if detector.merge is None else f", merged at {detector.merge:g}"
    learnt = "" if detector.is_frozen else ", which learnt too"
    alone = [f"The backbone alone{merged}{learnt} (`{BACKBONE_WEIGHTS_NAME}`):", ""]
    alone += [*loading_lines(model.backbone), ""]
    return "\n".join(
        [
            f"# An infrared {task.model.noun} of {', '.join(detector.classes)}",
            "",
            f"`{detector.architecture}` on blocks (of a CNN: stages) {', '.join(map(str, detector.blocks))} of "
            f"`{Path(detector.backbone).name}` ({backbone}), pictures of {detector.height}x{detector.width}.",
            "",
            "## Use",
            "",
            task.use,
            "",
            f"`{task.model.config_name}` and `{task.model.weights_name}` (safetensors) are all that it needs.",
            "",
            *(alone if _is_backbone_its_own(detector) else []),
            "## Data",
            "",
            f"{record.pictures} pictures of {', '.join(f'`{Path(uri).name}`' for uri in record.train)}: "
            f"{', '.join(f'{objects} {unit}{name}' for name, objects in record.objects.items())}. {masks}"
            f"{record.left_out} pictures were left out and {len(record.skipped)} could not be read. SHA-256 of the "
            f"list of pictures and what is marked on them: `{record.data_sha256[:16]}`. Licence of the pictures, as "
            f"stated by who trained this: {record.licence}.",
            "",
            "## Training",
            "",
            f"{f'Begun with `{Path(record.start).name}`. ' if record.start else ''}"
            f"{config.epochs} epochs in {record.seconds:.0f} s, batches of {config.batch_size}, seed {config.seed}, "
            f"{config.precision}, views `{config.augment}`, {record.trained_parameters} parameters; a moving average "
            f"of their values is what is kept. All settings and library versions: `{DETECT_NAME}`. Commit "
            f"{record.commit[:12] or 'unknown'}, {record.created}.",
            "",
            "| at the last epoch | |",
            "|---|---|",
            *(f"| {name} | {value:.4g} |" for name, value in record.figures.items()),
            "",
            f"`val` is {f'`{Path(record.val).name}`, which chose nothing' if record.val else 'not given'}. Figures "
            f"with intervals: `jobs/evaluate_{task.model.noun}.py`.",
            "",
            f"![curves]({CURVES_NAME})",
            "",
            f"Numbers: `{HISTORY_NAME}`; `tensorboard --logdir {TENSORBOARD_NAME}`; pictures after each epoch: "
            "`samples/`.",
            "",
            "## Limits",
            "",
            "It knows the cameras, places and weather of the pictures above and no others; scores are not "
            "probabilities elsewhere. It must not be the only thing that a vehicle brakes for. The licences of the "
            "pictures and of the backbone may bind these weights.",
            "",
        ]
    )
