"""SceneMiner: one forward pass from the pictures of scenes to embedding, tags, risk and forecast.

Legend: N scenes, M pictures of all scenes, P patches, C channels of a patch, E embedding width, K tags, T steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from system.errors import ConfigError, ModelError
from system.miner.bev import cell_index, complete_rig, ground_points, patch_centres, pool_cells
from system.miner.forecast import ambiguity_m
from system.miner.heads import EmbeddingHead, ForecastHead, RiskHead, TagHead
from system.miner.identity import (
    CONFIG_NAME,
    FORMAT,
    WEIGHTS_NAME,
    SavedMiner,
    read_saved,
    saved_model_id,
    untrained_model_id,
)
from system.miner.miner_config import SceneMinerConfig
from system.miner.scene_batch import SceneBatch, SceneFeatures, SceneOutputs, check_batch
from system.miner.stream import SceneStream, readable
from system.miner.tags import embed_taxonomy, zero_shot_logits
from system.miner.taxonomy import Taxonomy

__all__ = ["SceneBatch", "SceneFeatures", "SceneMiner", "SceneMinerConfig", "SceneOutputs"]


class TowerAnswer(Protocol):
    """What a tower returns: pooled_NE of length 1 and patches_NPC, float32."""

    @property
    def pooled_NE(self) -> Tensor: ...

    @property
    def patches_NPC(self) -> Tensor: ...


class Tower(Protocol):
    """What the miner needs of an image+text tower."""

    @property
    def name(self) -> str: ...

    @property
    def tower_id(self) -> str: ...

    @property
    def embedding_dim(self) -> int: ...

    @property
    def patch_dim(self) -> int: ...

    @property
    def input_size(self) -> tuple[int, int]: ...

    @property
    def patch_grid(self) -> tuple[int, int]: ...

    def text_prompt(self, words: str) -> str: ...

    def encode_images(self, images_NHWC: Tensor) -> TowerAnswer: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


class SceneMiner(nn.Module):
    """The model. Made by `untrained` or `load`, with every parameter frozen; training unfreezes what it may change."""

    def __init__(self, tower: Tower, config: SceneMinerConfig, taxonomy: Taxonomy, has_risk_head: bool = False) -> None:
        super().__init__()
        self.config, self.taxonomy = config, taxonomy
        # In a tuple: the tower is frozen and shared, not a part of this module's state.
        self._tower = (tower,)
        self._words = embed_taxonomy(tower, taxonomy, config.tag_scale)
        self.model_id = untrained_model_id(tower.tower_id, config, taxonomy)
        dim, hidden, heads = config.stream_dim, config.head_hidden, config.attention_heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.stream = SceneStream(tower.patch_dim, dim, config.stream_blocks, heads)
            self.embedding = EmbeddingHead(dim, hidden, tower.embedding_dim, heads)
            self.tags = TagHead(dim, hidden, len(taxonomy.tags), heads)
            self.forecast = ForecastHead(dim, hidden, config.forecast_horizon_s, config.forecast_steps, heads)
            self.risk = RiskHead(dim, hidden, heads) if has_risk_head else None
        self.to(self._words.prompts_KE.device).requires_grad_(False).eval()

    @classmethod
    def untrained(cls, tower: Tower, config: SceneMinerConfig, taxonomy: Taxonomy) -> SceneMiner:
        """The model that adds nothing yet: its embedding and tags are the tower's zero-shot answers, bit by bit."""
        return cls(tower, config, taxonomy)

    @classmethod
    def load(cls, folder: str | Path, tower: Tower) -> SceneMiner:
        """Read a model that `save` wrote.

        Raises:
            ModelError: files missing, damaged or of another format; made for another tower; tensors missing,
                unknown, of the wrong shape or type, or not finite.
        """
        saved = read_saved(folder, tower.tower_id)
        described = saved.described
        widths = (described.embedding_dim, described.patch_dim)
        if widths != (tower.embedding_dim, tower.patch_dim):
            raise ModelError(
                f"{folder}: made for a tower with (embedding, patch) widths {widths}, this one has "
                f"{(tower.embedding_dim, tower.patch_dim)}"
            )
        model = cls(tower, described.config, described.taxonomy, described.has_risk_head)
        file = Path(folder) / WEIGHTS_NAME
        try:
            tensors = load_safetensors(saved.weights)
        except SafetensorError as error:
            raise ModelError(f"{file}: expected safetensors: {error}") from error
        _check_tensors(tensors, model.state_dict(), str(file))
        model.load_state_dict(tensors)
        model.model_id = saved.model_id
        return model

    @property
    def tower(self) -> Tower:
        return self._tower[0]

    @property
    def has_risk_head(self) -> bool:
        return self.risk is not None

    def add_risk_head(self) -> RiskHead:
        """Give the model a risk head to train; it answers 0.5 for every scene until then.

        Raises:
            ConfigError: there is one already.
        """
        if self.risk is not None:
            raise ConfigError(f"model {self.model_id} has a risk head already")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed + 1)
            self.risk = RiskHead(self.config.stream_dim, self.config.head_hidden, self.config.attention_heads)
        self.risk.to(self._words.prompts_KE.device)
        return self.risk

    def save(self, folder: str | Path) -> str:
        """Write config.json and model.safetensors; from then on the model has the returned id.

        Raises:
            ModelError: a weight is not finite, or the folder cannot be written.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        _check_tensors(tensors, tensors, str(folder))
        weights = save_safetensors(tensors)
        described = SavedMiner(
            format=FORMAT,
            tower=self.tower.name,
            tower_id=self.tower.tower_id,
            embedding_dim=self.tower.embedding_dim,
            patch_dim=self.tower.patch_dim,
            has_risk_head=self.has_risk_head,
            weights_sha256=hashlib.sha256(weights).hexdigest(),
            config=self.config,
            taxonomy=self.taxonomy,
        )
        root = Path(folder)
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / WEIGHTS_NAME).write_bytes(weights)
            (root / CONFIG_NAME).write_text(json.dumps(described.model_dump(mode="json"), indent=1) + "\n", "utf-8")
        except OSError as error:
            raise ModelError(f"{root}: cannot be written: {error.strerror}") from error
        self.model_id = saved_model_id(root, self.tower.tower_id)
        return self.model_id

    def encode(self, batch: SceneBatch) -> SceneFeatures:
        """Everything before the first weight: the frozen tower, once for each picture, and the bird's-eye lift.

        Raises:
            DataError: the batch does not fit together, or does not fit the tower.
        """
        check_batch(batch, self.tower.input_size)
        device = self._words.prompts_KE.device
        scene = batch.scene_M.to(device)
        counts = torch.bincount(batch.scene_M, minlength=batch.num_scenes).tolist()
        with torch.no_grad():
            pooled, patches = self._tower_answer(batch.images_MHWC, device)
            intrinsics, poses = complete_rig(
                batch.intrinsics_M33.to(device),
                batch.ego_from_camera_M44.to(device),
                batch.is_calibrated_M.to(device),
                self.tower.input_size,
            )
            centres = patch_centres(self.tower.patch_grid, self.tower.input_size).to(device)
            _, range_m, azimuth_rad = ground_points(centres, intrinsics, poses)
            cells = cell_index(range_m, azimuth_rad)
            return SceneFeatures(
                mean_embedding_NE=torch.stack([part.mean(0) for part in pooled.split(counts)]),
                zero_shot_logits_NK=zero_shot_logits(pooled, counts, self._words),
                tokens=pool_cells(patches, cells, scene, batch.time_s_M.to(device), batch.num_scenes),
                ego_N3=batch.ego_N3.to(device),
            )

    def answer(self, features: SceneFeatures) -> SceneOutputs:
        """The stream and the heads."""
        stream = self.stream(features.tokens)
        is_read = readable(features.tokens.is_seen_NK)
        has_pictures = features.tokens.is_seen_NK.any(-1)
        forecast, probability = self.forecast(stream, is_read, features.ego_N3)
        unknown = torch.full(has_pictures.shape, torch.nan, device=stream.device)
        risk = unknown if self.risk is None else torch.where(has_pictures, self.risk(stream, is_read), unknown)
        return SceneOutputs(
            embedding_NE=self.embedding(stream, is_read, features.mean_embedding_NE),
            tag_probabilities_NK=self.tags(stream, is_read, features.zero_shot_logits_NK),
            risk_N=risk,
            forecast_NMT2=forecast,
            forecast_probability_NM=probability,
            ambiguity_N=ambiguity_m(forecast, probability),
        )

    def forward(self, batch: SceneBatch) -> SceneOutputs:
        return self.answer(self.encode(batch))

    def _tower_answer(self, images_MHWC: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        tower, count = self.tower, len(images_MHWC)
        if not count:
            patches = tower.patch_grid[0] * tower.patch_grid[1]
            return torch.zeros(0, tower.embedding_dim, device=device), torch.zeros(
                0, patches, tower.patch_dim, device=device
            )
        answer = tower.encode_images(images_MHWC)
        return answer.pooled_NE, answer.patches_NPC


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise ModelError(f"{where}: missing tensors {missing[:5]}, unknown tensors {unknown[:5]}")
    for name, tensor in tensors.items():
        want = expected[name]
        if (tensor.shape, tensor.dtype) != (want.shape, want.dtype):
            raise ModelError(
                f"{where}: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected {want.dtype} {tuple(want.shape)}"
            )
        if not tensor.isfinite().all():
            raise ModelError(f"{where}: {name} holds values that are not finite")
