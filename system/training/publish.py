"""What is written beside a trained model: learning curves, TensorBoard events, the record and a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from system.errors import ConfigError, ModelError
from system.miner.heads import Head
from system.miner.model import SceneMiner
from system.training.records import CERTIFICATE_NAME, RECORD_NAME, Training, TrainingRecord, write_record

CARD_NAME, CURVES_NAME, TENSORBOARD_NAME = "README.md", "curves.png", "tensorboard"
HISTORY_NAME = "history.json"


def unpublished(out: Path) -> Path:
    """A new, empty folder beside `out`, in which a model is put together before anybody sees it."""
    folder = out.with_name(f".{out.name}.unpublished")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    return folder


def publish(folder: Path, out: Path) -> None:
    """Make a finished folder visible at once, whole."""
    try:
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        raise ModelError(f"{out}: cannot be written: {error.strerror}; the model lies in {folder}") from error


def write_history(folder: Path, history: Sequence[Mapping[str, float]], best_epoch: int) -> None:
    """Learning curves as numbers, as a picture and for TensorBoard."""
    # Both take seconds to import, and workers import this module too.
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

    (folder / HISTORY_NAME).write_text(json.dumps(list(history), indent=1) + "\n", "utf-8")
    names = sorted({name.split("/", 1)[1] for row in history for name in row if "/" in name})
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for part, color in (("train", "#4477aa"), ("val", "#cc6677")):
            points = [(row["epoch"], row[f"{part}/{name}"]) for row in history if f"{part}/{name}" in row]
            if points:
                axis.plot(*zip(*points, strict=True), color=color, label=part)
        axis.axvline(best_epoch, color="0.6", linewidth=0.8, linestyle="--")
        axis.set(title=name, xlabel="epoch", ylabel="loss")
        axis.legend(frameon=False)
    figure.savefig(folder / CURVES_NAME, dpi=110)
    with SummaryWriter(str(folder / TENSORBOARD_NAME)) as writer:
        for row in history:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(row["epoch"]))


def _linear(head: Head) -> str:
    """A head of very many answers has no room for it."""
    return "yes" if any(reader.summary is not None for reader in head.readers) else "no"


def write_card(folder: Path, miner: SceneMiner, record: TrainingRecord) -> None:
    """The training record and a model card for people."""
    write_record(folder, RECORD_NAME, record)
    last = record.trainings[-1]
    certificate = (
        f"`{CERTIFICATE_NAME}` holds the SHA-256 of every other head's answers to `probe.safetensors`, the same before "
        "and after; `jobs/verify_certificate.py` checks them again."
        if (folder / CERTIFICATE_NAME).is_file()
        else "None: this is a base model."
    )
    lines = [
        f"# SceneMiner {miner.model_id}",
        "",
        f"A scene model on the frozen tower `{miner.tower.name}` (id {miner.tower.tower_id}). "
        f"Use it with `jobs/mine_fleet.py --tower {miner.tower.name} --model <this folder>`.",
        "",
        "## Heads",
        "",
        "| head | readers | parameters | linear in the scene's summary |",
        "|---|---|---|---|",
        *(
            f"| {name} | {len(head.readers)} | {sum(p.numel() for p in head.parameters())} | {_linear(head)} |"
            for name, head in miner.heads.items()
        ),
        "",
        "Without readers a head answers as the tower alone: zero-shot (forecast: by kinematics; risk: not at all).",
        "",
        "## Trainings",
        "",
        "| trained | parameters | scenes train / val / test | best of epochs | data SHA-256 | commit | made |",
        "|---|---|---|---|---|---|---|",
        *(_training_row(training) for training in record.trainings),
        "",
        f"Logs of the last: {', '.join(f'`{log}`' for log in last.logs)}. {last.left_out} scenes or logs could not be "
        "read and were left out. Scenes are split by town, sequence or log; `training.json` names the groups. The test "
        "part was used for nothing. Seeds, settings and library versions: `training.json`.",
        "",
        "## Figures at the best epoch",
        "",
        "| loss | |",
        "|---|---|",
        *(f"| {name} | {value:.4g} |" for name, value in sorted(last.figures.items())),
        "",
        f"Curves: `{CURVES_NAME}`, numbers: `{HISTORY_NAME}`; TensorBoard: `tensorboard --logdir {TENSORBOARD_NAME}`. "
        "Figures on the test part: "
        "`jobs/evaluate_miner.py`.",
        "",
        "## Certificate",
        "",
        certificate,
        "",
        "## Limits",
        "",
        "Trained on the scenes named above and on no others; a town, a camera or a weather that they lack may be "
        "judged wrongly. The logs have licences of their own, which may bind what is trained on them.",
        "",
    ]
    if last.positives:
        at = lines.index("## Certificate")
        lines[at:at] = [
            "## Training scenes with each tag",
            "",
            ", ".join(f"{tag} {count}" for tag, count in last.positives.items()) + ".",
            "",
        ]
    try:
        (folder / CARD_NAME).write_text("\n".join(lines), "utf-8")
    except OSError as error:
        raise ModelError(f"{folder / CARD_NAME}: cannot be written: {error.strerror}") from error


def _training_row(training: Training) -> str:
    scenes = " / ".join(str(training.scenes.get(part, 0)) for part in ("train", "val", "test"))
    return (
        f"| {training.head} | {training.trained_parameters} | {scenes} | {training.best_epoch} of {training.epochs} | "
        f"{training.data_sha256[:12]} | {training.commit[:12] or 'unknown'} | {training.created} |"
    )
