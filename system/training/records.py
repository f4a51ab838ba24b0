"""What lies beside a trained model: how it came about, and the certificate that its siblings did not move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, ModelError
from system.logs.windows import WindowConfig

CERTIFICATE_NAME, PROBE_NAME, RECORD_NAME = "certificate.json", "probe.safetensors", "training.json"
_MAX_BYTES = 64 << 20


class Training(FrozenConfig):
    """One training in the history of a model.

    head: what was trained; "base" for the stream with its first heads.
    parts: group -> train, val or test, so that no later training or evaluation mixes them. log_parts: the same of each
    log, since other rules name other groups.
    windows, labels, rules: how the logs were cut and labelled; None where ours were taken.
    scenes: of each part. data_sha256: of their ids and labels. figures: what was measured at the end.
    """

    head: str
    model_id: str = ""
    base_model_id: str | None = None
    trained_parameters: int
    config: dict[str, Any]
    logs: tuple[str, ...]
    tower: str
    windows: WindowConfig = WindowConfig()
    labels: str | None = None
    rules: str | None = None
    parts: dict[str, str]
    log_parts: dict[str, str] = Field(default_factory=dict)
    scenes: dict[str, int]
    left_out: int
    data_sha256: str
    positives: dict[str, int] = Field(default_factory=dict)
    best_epoch: int
    epochs: int
    figures: dict[str, float]
    created: str
    commit: str
    libraries: dict[str, str]


class TrainingRecord(FrozenConfig):
    """training.json: every training that a model went through, the first one first."""

    format: str = Field(default="nightminer.training.v1", pattern=r"^nightminer\.training\.v1$")
    trainings: tuple[Training, ...] = Field(min_length=1)

    def parts(self) -> dict[str, str]:
        """group -> part, of all trainings; one that any has learnt from counts as such."""
        return _merged([training.parts for training in self.trainings])

    def log_parts(self) -> dict[str, str]:
        """`source/log` -> part, likewise."""
        return _merged([training.log_parts for training in self.trainings])


def furthest(*parts: str) -> str:
    """Of parts, the one in which most is learnt."""
    return max(parts, key=lambda part: {"test": 0, "val": 1}.get(part, 2))


def _merged(records: list[dict[str, str]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for record in records:
        for name, part in record.items():
            merged[name] = furthest(merged.get(name, part), part)
    return merged


class SiblingOutput(FrozenConfig):
    """SHA-256 of one output of one head on the probe."""

    head: str
    output: int
    dtype: str
    batch_size: int
    workers: int
    shape: tuple[int, ...]
    sha256: str


class Certificate(FrozenConfig):
    """certificate.json: the siblings of an upgraded head answer the probe bit by bit as they did before.

    checkpoint_sha256, base_checkpoint_sha256, probe_sha256: of the files. siblings: the same before and after.
    machine, threads, libraries: what the numbers were computed on; others may round differently.
    """

    format: str = Field(default="nightminer.certificate.v1", pattern=r"^nightminer\.certificate\.v1$")
    head: str
    model_id: str
    base_model_id: str
    checkpoint_sha256: str
    base_checkpoint_sha256: str
    probe_sha256: str
    data_sha256: str
    tower: str
    tower_id: str
    trained_parameters: int
    siblings: tuple[SiblingOutput, ...] = Field(min_length=1)
    device: str
    machine: str
    threads: int
    libraries: dict[str, str]
    created: str


def write_record(folder: Path, name: str, record: FrozenConfig) -> None:
    """Write a record into a model's folder.

    Raises:
        ModelError: it cannot be written.
    """
    try:
        (folder / name).write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", "utf-8")
    except OSError as error:
        raise ModelError(f"{folder / name}: cannot be written: {error.strerror}") from error


def read_certificate(folder: str | Path) -> Certificate:
    """Raises ModelError: there is none, or it is damaged."""
    values = _read_json(Path(folder) / CERTIFICATE_NAME, "a certificate, which jobs/finetune_head.py writes")
    try:
        return Certificate.parse(values, where=str(Path(folder) / CERTIFICATE_NAME))
    except ConfigError as error:
        raise ModelError(str(error)) from error


def read_training(folder: str | Path) -> TrainingRecord | None:
    """How a model came about; None where nothing tells. Raises ModelError: the file is damaged."""
    file = Path(folder) / RECORD_NAME
    if not file.is_file():
        return None
    try:
        return TrainingRecord.parse(_read_json(file, "a training record"), where=str(file))
    except ConfigError as error:
        raise ModelError(str(error)) from error


def _read_json(file: Path, expected: str) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{file}: {file.stat().st_size} bytes, expected at most {_MAX_BYTES}")
        values = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}; expected {expected}") from error
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file}: expected {expected}")
    return values
