"""What a distillation leaves: adapters, merged weights for timm and transformers, curves, a record and a model card.

Of a convolutional network `adapters.safetensors` holds all that was trained, projections too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from system.backbones.dinov2_layout import is_dinov2, to_transformers, transformers_config
from system.backbones.vit import normalisation_metadata, vit_facts
from system.config import FrozenConfig
from system.errors import ModelError
from system.freqkd.distiller import DistillConfig
from system.freqkd.student import CnnStudent, Student, merged_weights, trained_state
from system.pairs.pixels import InfraredMapping
from system.training.backbone_export import network_loading
from system.training.publish import CARD_NAME, CURVES_NAME, HISTORY_NAME, TENSORBOARD_NAME

ADAPTERS_NAME, MERGED_NAME, TRANSFORMERS_NAME = "adapters.safetensors", "merged.safetensors", "transformers"
DISTILL_NAME, POSITIONS_NAME = "distill.json", "positions.safetensors"
_NOT_LOSSES = ("epoch", "step", "steps", "lr")
_BAND_TITLES = {"low": "low band", "high": "high band"}


class DistillRecord(FrozenConfig):
    """Where a student comes from.

    pairs: by corpus. mapping: of the infrared values that it saw. loss: means over the last epoch. skipped: why, for
    each pair.
    """

    config: DistillConfig
    uris: tuple[str, ...]
    licence: str
    mapping: InfraredMapping
    pairs: dict[str, int]
    data_sha256: str
    skipped: tuple[str, ...]
    left_out: int
    loss: dict[str, float]
    images: int
    seconds: float
    created: str
    commit: str
    libraries: dict[str, str]


def write_student(
    folder: Path, student: Student, record: DistillRecord, history: Sequence[Mapping[str, float]]
) -> None:
    """Fill a new folder.

    Raises:
        ModelError: the folder cannot be written.
    """
    config = record.config
    is_network = isinstance(student, CnnStudent)
    facts = student.facts if isinstance(student, CnnStudent) else vit_facts(student)
    metadata = {"tower": config.tower}
    if not is_network:
        metadata |= {"rank": str(config.rank), "alpha": str(config.alpha), "last_block": str(max(config.blocks))}
    try:
        save_file(trained_state(student), folder / ADAPTERS_NAME, metadata=metadata)
        merged = merged_weights(student, config, config.merge_factor)
        save_file(
            merged, folder / MERGED_NAME, metadata={"architecture": facts.architecture} | normalisation_metadata(facts)
        )
        if not isinstance(student, CnnStudent) and is_dinov2(facts.architecture, merged):
            _write_transformers(folder / TRANSFORMERS_NAME, student, merged)
            _write_positions(folder, student, config)
        (folder / DISTILL_NAME).write_text(record.model_dump_json(indent=1) + "\n", "utf-8")
        _write_history(folder, history)
        (folder / CARD_NAME).write_text(_card(folder, student, record), "utf-8")
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _write_transformers(folder: Path, student: VisionTransformer, merged: Mapping[str, torch.Tensor]) -> None:
    folder.mkdir()
    # timm types a block's parts as modules.
    heads: int = student.blocks[0].attn.num_heads  # type: ignore[union-attr,assignment]
    settings = transformers_config(merged, heads)
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    save_file(to_transformers(merged), folder / "model.safetensors", metadata={"format": "pt"})


def _write_positions(folder: Path, student: VisionTransformer, config: DistillConfig) -> None:
    """Positions at the size of the training, for users of timm, which resamples them otherwise than DINOv2 does."""
    facts = vit_facts(student)
    height, width = facts.padded(config.height, config.width)
    assert student.pos_embed is not None
    positions = resample_abs_pos_embed(
        student.pos_embed.detach(),
        new_size=[height // facts.patch, width // facts.patch],
        old_size=list(student.patch_embed.grid_size),
        num_prefix_tokens=student.num_prefix_tokens,
        antialias=False,
    )
    save_file({"pos_embed": positions.contiguous()}, folder / POSITIONS_NAME)


def _write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Losses of bands and blocks as numbers, as a picture and for TensorBoard."""
    # All three take seconds to import, and workers import this module too.
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

    (folder / HISTORY_NAME).write_text(json.dumps(list(history), indent=1) + "\n", "utf-8")
    names = [name for name in history[0] if name not in _NOT_LOSSES]
    bands = list(dict.fromkeys(name.split("/")[0] for name in names))
    figure = Figure(figsize=(4.2 * (len(bands) + 1), 3.4), layout="constrained")
    axes = figure.subplots(1, len(bands) + 1, squeeze=False)
    steps = [row["step"] for row in history]
    ends = [a["step"] for a, b in itertools.pairwise(history) if a["epoch"] != b["epoch"]]
    for axis, band in zip(axes[0], [*bands, "lr"], strict=True):
        lines = [name for name in names if name.split("/")[0] == band] or ["lr"]
        for k, name in enumerate(lines):
            label = f"block {name.split('/')[1]}" if "/" in name else name
            color = colormaps["viridis"](k / max(1, len(lines))) if len(lines) > 1 else "#4477aa"
            marker = "." if len(history) < 60 else None
            axis.plot(steps, [row[name] for row in history], color=color, label=label, marker=marker, linewidth=1.2)
        for end in ends[:50]:
            axis.axvline(end, color="0.85", linewidth=0.6, zorder=0)
        title = {"lr": "learning rate", "total": "loss"} | _BAND_TITLES
        axis.set(title=title.get(band, band), xlabel="step (lines: ends of epochs)" if ends else "step")
        axis.set_ylim(bottom=0)
        if len(lines) > 1:
            axis.legend(frameon=False, fontsize="small")
    figure.savefig(folder / CURVES_NAME, dpi=110)
    with SummaryWriter(str(folder / TENSORBOARD_NAME)) as writer:
        for row in history:
            for name in (*names, "lr"):
                writer.add_scalar(name, row[name], int(row["step"]))


def _card(folder: Path, student: Student, record: DistillRecord) -> str:
    config = record.config
    facts = student.facts if isinstance(student, CnnStudent) else vit_facts(student)
    if isinstance(student, CnnStudent):
        learns, loading = _network_learns(config), _network_loading(student)
        trained = "Batch norms were not trained"
    else:
        learns, loading = _transformer_learns(config), _transformer_loading(folder, student, config)
        trained = f"Blocks beyond {max(config.blocks)} were not trained"
    return "\n".join(
        [
            f"# An infrared {facts.architecture}",
            "",
            learns,
            "",
            "## Use",
            "",
            "With Nightminer: `--backbone <this folder>`, which brings the mapping of infrared values too "
            f"({_told(record.mapping)}). Pictures: one infrared channel repeated three times, in [0, 1], less "
            f"{_triple(facts.mean)}, divided by "
            f"{_triple(facts.std)}.",
            "",
            *loading,
            "",
            "## Data",
            "",
            "| corpus | pairs |",
            "|---|---|",
            *(f"| `{Path(uri).name}` | {count} |" for uri, count in record.pairs.items()),
            "",
            f"{record.left_out} pictures without a partner or unreadable records were left out; {len(record.skipped)} "
            "pairs could not be read and were skipped. SHA-256 of the list of pairs: "
            f"`{record.data_sha256[:16]}`. Licence of the pictures, as stated by who trained this: {record.licence}.",
            "",
            "## Training",
            "",
            f"{config.epochs} epochs, {record.images} pairs seen in {record.seconds:.0f} s, pictures of "
            f"{config.height}x{config.width}, batches of {config.batch_size}, seed {config.seed}, {config.precision}. "
            f"Loss `{config.loss.model_dump_json()}`. All settings and library versions: `{DISTILL_NAME}`. Commit "
            f"{record.commit[:12] or 'unknown'}, {record.created}.",
            "",
            "| loss, mean over the last epoch | |",
            "|---|---|",
            *(f"| {name} | {value:.4g} |" for name, value in record.loss.items()),
            "",
            f"![curves]({CURVES_NAME})",
            "",
            f"Numbers: `{HISTORY_NAME}`; `tensorboard --logdir {TENSORBOARD_NAME}`.",
            "",
            "## Limits",
            "",
            "A low loss says that features of infrared and RGB agree, not that a detector will be better: ask "
            "`jobs/probe_backbone.py`. It knows the cameras, the places and the weather of the corpora above and no "
            f"others. {trained}. The licences of the pictures and of the "
            "backbone may bind these weights.",
            "",
        ]
    )


def _transformer_learns(config: DistillConfig) -> str:
    return (
        f"Blocks {', '.join(map(str, config.blocks))} (counted from 0) of `{config.tower}` were taught on "
        f"infrared pictures what `{config.teacher or config.tower}` sees in their RGB partners, by low-rank "
        f"adapters of rank {config.rank or 'full'}, without labels. "
        f"`{MERGED_NAME}` is W + {config.merge_factor:g} x the update; "
        f"`{ADAPTERS_NAME}` holds the update itself, for other factors."
    )


def _transformer_loading(folder: Path, student: VisionTransformer, config: DistillConfig) -> list[str]:
    facts = vit_facts(student)
    height, width = facts.padded(config.height, config.width)
    loading = [
        "```python",
        "import timm",
        "from safetensors.torch import load_file",
        "",
        f'model = timm.create_model("{facts.architecture}", num_classes=0, img_size=({height}, {width}))'
        if (folder / POSITIONS_NAME).is_file()
        else f'model = timm.create_model("{facts.architecture}", num_classes=0)',
    ]
    if not (folder / POSITIONS_NAME).is_file():
        return [*loading, f'model.load_state_dict(load_file("{MERGED_NAME}"))', "```"]
    return [
        *loading,
        f'model.load_state_dict(load_file("{MERGED_NAME}") | load_file("{POSITIONS_NAME}"))',
        "",
        "from transformers import AutoModel",
        "",
        f'model = AutoModel.from_pretrained("{TRANSFORMERS_NAME}")',
        "```",
        "",
        f'`timm.create_model(..., checkpoint_path="{MERGED_NAME}")` loads it too, at its own size. At other sizes '
        "timm smooths positions when it resamples them, which DINOv2 does not, and features move by about 5 %; "
        f"`{POSITIONS_NAME}` holds those of {height}x{width}. transformers and Nightminer resample as DINOv2 does.",
    ]


def _network_learns(config: DistillConfig) -> str:
    return (
        f"Stages 0 to 3 of `{config.tower}` were taught on infrared pictures what blocks "
        f"{', '.join(map(str, config.blocks))} (counted from 0) of `{config.teacher}` see in their RGB partners, "
        "without labels. All weights learnt but those of batch norms. "
        f"`{MERGED_NAME}` is W + {config.merge_factor:g} x the update; `{ADAPTERS_NAME}` holds what was trained, and "
        "the 1x1 convolutions to the teacher's width, which nothing needs afterwards."
    )


def _network_loading(student: CnnStudent) -> list[str]:
    # timm types what it adds to a module as modules.
    indices: Any = student.network.feature_info.out_indices  # type: ignore[union-attr]
    return network_loading(student.facts.architecture, indices, MERGED_NAME)


def _told(mapping: InfraredMapping) -> str:
    if mapping.kind == "range":
        return f"more than 8 bits: {mapping.low:g} to {mapping.high:g}"
    return f"more than 8 bits: percentiles {mapping.low_percentile:g} to {mapping.high_percentile:g} of each picture"


def _triple(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
