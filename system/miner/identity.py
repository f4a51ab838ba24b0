"""What a model is called: a hash of everything that its answers depend on. Free of torch.

A run names its model before any worker has loaded it, so that scenes which this model has mined already are left out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, ModelError
from system.miner.miner_config import OwnHead, SceneMinerConfig
from system.miner.taxonomy import Taxonomy

# Raise whenever the forward pass gives other answers for the same weights: old rows then belong to another model.
FORWARD_VERSION = 1
FORMAT = "nightminer.scene_miner.v3"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES = 4 << 20, 4 << 30


class SavedMiner(FrozenConfig):
    """The config.json of a saved SceneMiner.

    tower, tower_id: the tower that it was made for; it works with no other.
    readers: how many readers each head has, so how often it was trained or upgraded.
    weights_sha256: of the safetensors file, so that a damaged or exchanged file is refused.
    """

    format: str = Field(pattern=r"^nightminer\.scene_miner\.v3$")
    tower: str
    tower_id: str
    embedding_dim: int = Field(gt=0)
    patch_dim: int = Field(gt=0)
    readers: dict[str, Annotated[int, Field(ge=0, le=64)]]
    own_heads: tuple[OwnHead, ...] = ()
    weights_sha256: str
    config: SceneMinerConfig
    taxonomy: Taxonomy

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Every tag that the model answers: the taxonomy's, then those of own heads."""
        return (*self.taxonomy.names, *(tag for head in self.own_heads for tag in head.tags))


@dataclass(frozen=True)
class SavedFiles:
    """A saved SceneMiner, read and checked but not built."""

    described: SavedMiner
    weights: bytes
    model_id: str


def untrained_model_id(tower_id: str, config: SceneMinerConfig, taxonomy: Taxonomy) -> str:
    """Id of the model that adds nothing to its tower: 32 hexadecimal digits."""
    return _digest(
        {"tower_id": tower_id, "config": config.model_dump(), "taxonomy": taxonomy.model_dump(), "weights": "untrained"}
    )


def saved_model_id(folder: str | Path, tower_id: str) -> str:
    """Id of a saved model: 32 hexadecimal digits.

    Raises:
        ModelError: as `read_saved`.
    """
    return read_saved(folder, tower_id).model_id


def read_saved(folder: str | Path, tower_id: str) -> SavedFiles:
    """Read a model's folder and check that it is whole and made for the tower.

    Raises:
        ModelError: a file is missing, too large, damaged or of another format, or the model belongs to another tower.
    """
    root = Path(folder)
    config_bytes = _read(root / CONFIG_NAME, MAX_CONFIG_BYTES)
    try:
        described = SavedMiner.parse(json.loads(config_bytes), where=str(root / CONFIG_NAME))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{root / CONFIG_NAME}: expected JSON: {error}") from error
    except ConfigError as error:
        raise ModelError(f"{error}; expected a SceneMiner saved as {FORMAT}") from error
    if described.tower_id != tower_id:
        raise ModelError(
            f"{root}: this model was made for the tower {described.tower} with id {described.tower_id}, the one at "
            f"hand has id {tower_id}; choose that tower or train the model again"
        )
    weights = _read(root / WEIGHTS_NAME, MAX_WEIGHTS_BYTES)
    actual = hashlib.sha256(weights).hexdigest()
    if actual != described.weights_sha256:
        raise ModelError(
            f"{root / WEIGHTS_NAME}: damaged or exchanged: expected SHA-256 {described.weights_sha256}, got {actual}"
        )
    return SavedFiles(described, weights, _digest(described.model_dump()))


def _digest(parts: dict[str, Any]) -> str:
    # sha256 of canonical JSON: the same on every machine and Python.
    text = json.dumps({"forward_version": FORWARD_VERSION, **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise ModelError(f"{file}: {size} bytes, expected at most {max_bytes}")
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
