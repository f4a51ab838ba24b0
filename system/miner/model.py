"""SceneMiner: one forward pass from the pictures of scenes to embedding, tags, risk and forecast.

Legend: N scenes, M pictures of all scenes, P patches, C channels of a patch, E embedding width, K tags, T steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from system.errors import ConfigError, ModelError
from system.miner.forecast import ambiguity_m
from system.miner.heads import EmbeddingHead, ForecastHead, Head, OwnTagHead, RiskHead, StreamReader, TagHead
from system.miner.identity import (
    CONFIG_NAME,
    FORMAT,
    WEIGHTS_NAME,
    SavedMiner,
    read_saved,
    saved_model_id,
    untrained_model_id,
)
from system.miner.lift import ImageTower, LiftedScenes, lift_scenes
from system.miner.miner_config import HEADS, OwnHead, SceneMinerConfig
from system.miner.scene_batch import SceneBatch, SceneFeatures, SceneOutputs
from system.miner.stream import SceneStream, readable
from system.miner.summary import summary, top_cells
from system.miner.tags import embed_taxonomy, zero_shot_logits
from system.miner.taxonomy import Taxonomy

__all__ = ["SceneBatch", "SceneFeatures", "SceneMiner", "SceneMinerConfig", "SceneOutputs"]


class Tower(ImageTower, Protocol):
    """What the miner needs of an image+text tower."""

    @property
    def name(self) -> str: ...

    @property
    def tower_id(self) -> str: ...

    def text_prompt(self, words: str) -> str: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


class SceneMiner(nn.Module):
    """The model. Made by `untrained` or `load`, with every parameter frozen; training unfreezes what it may change."""

    def __init__(
        self, tower: Tower, config: SceneMinerConfig, taxonomy: Taxonomy, own_heads: Sequence[OwnHead] = ()
    ) -> None:
        super().__init__()
        self.config, self.taxonomy = config, taxonomy
        # In a tuple: the tower is frozen and shared, not a part of this module's state.
        self._tower = (tower,)
        self.words = embed_taxonomy(tower, taxonomy, config.tag_scale)
        self.model_id = untrained_model_id(tower.tower_id, config, taxonomy)
        dim, heads, size, cells = config.stream_dim, config.attention_heads, config.head_parameters, tower.patch_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.stream = SceneStream(tower.patch_dim, dim, config.stream_blocks, heads)
        self.embedding = EmbeddingHead(dim, tower.embedding_dim, heads, size)
        self.tags = TagHead(dim, len(taxonomy.tags), heads, size, cells)
        self.risk = RiskHead(dim, 1, heads, size)
        self.forecast = ForecastHead(dim, config.forecast_horizon_s, config.forecast_steps, heads, size)
        self.own_heads: tuple[OwnHead, ...] = ()
        self.own = nn.ModuleDict()
        for own_head in own_heads:
            self.add_own_head(own_head)
        self.to(self.words.prompts_KE.device).requires_grad_(False).eval()

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
        model = cls(tower, described.config, described.taxonomy, described.own_heads)
        if described.readers.keys() != model.heads.keys():
            raise ModelError(f"{folder}: readers of {sorted(described.readers)}, expected {sorted(model.heads)}")
        for head, count in described.readers.items():
            for _ in range(count):
                model.add_reader(head)
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
        return bool(self.risk.readers)

    @property
    def own_tags(self) -> tuple[str, ...]:
        """Names of the tags that users' own heads answer."""
        return tuple(tag for head in self.own_heads for tag in head.tags)

    @property
    def heads(self) -> dict[str, Head]:
        """Every head by its name, in the order of their answers."""
        return {name: getattr(self, name) for name in HEADS} | {h.name: self.own_head(h.name) for h in self.own_heads}

    def add_reader(self, head: str) -> StreamReader:
        """Upgrade a head: give it one more reader, which adds nothing before it is trained.

        Raises:
            ConfigError: no such head.
        """
        if head not in self.heads:
            raise ConfigError(f"no head {head!r} in model {self.model_id}; it has {', '.join(self.heads)}")
        chosen = self.heads[head]
        with torch.random.fork_rng(devices=[]):
            # Another upgrade of the same head starts from other random numbers.
            torch.manual_seed(self.config.seed + 1 + len(chosen.readers))
            reader = chosen.add_reader()
        reader.to(self.words.prompts_KE.device).requires_grad_(False).eval()
        return reader

    def own_head(self, name: str) -> OwnTagHead:
        """A user's own head."""
        return cast(OwnTagHead, self.own[f"head_{name}"])

    def add_own_head(self, own_head: OwnHead) -> Head:
        """Give the model a head for a user's own questions; without a reader it answers 0.5.

        Raises:
            ConfigError: a head or a tag of that name exists.
        """
        if own_head.name in self.heads:
            raise ConfigError(f"model {self.model_id} has a head {own_head.name!r} already")
        known = sorted({*self.taxonomy.names, *self.own_tags} & {*own_head.tags})
        if known:
            raise ConfigError(
                f"head {own_head.name!r}: model {self.model_id} has tags of that name: {', '.join(known)}"
            )
        sizes = (self.config.attention_heads, self.config.head_parameters, self.tower.patch_dim)
        head = OwnTagHead(self.config.stream_dim, len(own_head.tags), *sizes)
        # A ModuleDict refuses the names of its own methods.
        self.own[f"head_{own_head.name}"] = head.eval()
        self.own_heads = (*self.own_heads, own_head)
        return head

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
            readers={name: len(head.readers) for name, head in self.heads.items()},
            own_heads=self.own_heads,
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
        return self.features_of(lift_scenes(self.tower, batch, self.words.prompts_KE.device))

    def features_of(self, lifted: LiftedScenes) -> SceneFeatures:
        """What the heads read, from what the tower knows: zero-shot tags depend on the taxonomy."""
        lifted = lifted.to(self.words.prompts_KE.device)
        counts = lifted.counts_N.tolist()
        with torch.no_grad():
            return SceneFeatures(
                mean_embedding_NE=torch.stack([part.mean(0) for part in lifted.pooled_ME.split(counts)]),
                zero_shot_logits_NK=zero_shot_logits(lifted.pooled_ME, counts, self.words),
                tokens=lifted.tokens,
                top_cell_NC=top_cells(lifted.tokens),
                ego_N3=lifted.ego_N3,
            )

    def answer(self, features: SceneFeatures) -> SceneOutputs:
        """The stream and the heads."""
        answers = self.answers(features)
        (embedding,), (tags,), (risk,), (forecast, probability) = (answers[name] for name in HEADS)
        own = [answers[head.name][0] for head in self.own_heads]
        return SceneOutputs(
            embedding_NE=embedding,
            tag_probabilities_NK=tags,
            own_probabilities_NL=torch.cat(own, -1) if own else tags[:, :0],
            risk_N=risk,
            forecast_NMT2=forecast,
            forecast_probability_NM=probability,
            ambiguity_N=ambiguity_m(forecast, probability),
        )

    def answers(self, features: SceneFeatures) -> dict[str, tuple[Tensor, ...]]:
        """What each head says, by its name; the guard compares these.

        NaN: all but the forecast of a scene without pictures, risk without a trained head, and forecasts without ego
        motion.
        """
        stream = self.stream(features.tokens)
        return {head: self.answer_of(head, stream, features) for head in self.heads}

    def answer_of(self, head: str, stream_NKD: Tensor, features: SceneFeatures) -> tuple[Tensor, ...]:
        """What one head says, given the stream."""
        is_seen = features.tokens.is_seen_NK
        is_read, has_pictures = readable(is_seen), is_seen.any(-1)
        if head == "embedding":
            return (self.embedding(stream_NKD, is_read, features.mean_embedding_NE),)
        if head == "tags":
            return (torch.sigmoid(self.tag_logits(head, stream_NKD, features)),)
        if head == "forecast":
            return self.forecast(stream_NKD, is_read, features.ego_N3)
        if head == "risk":
            known = has_pictures if self.has_risk_head else torch.zeros_like(has_pictures)
            return (torch.where(known, self.risk(stream_NKD, is_read, features.ego_N3), torch.nan),)
        own = torch.sigmoid(self.tag_logits(head, stream_NKD, features))
        return (torch.where(has_pictures[:, None], own, torch.nan),)

    def tag_logits(self, head: str, stream_NKD: Tensor, features: SceneFeatures) -> Tensor:
        """Of the taxonomy's tags or those of a user's own head, [N, tags]: sigmoid makes them the head's answer."""
        is_read, given = readable(features.tokens.is_seen_NK), summary(features.top_cell_NC, features.ego_N3)
        if head == "tags":
            return self.tags(stream_NKD, is_read, features.zero_shot_logits_NK, given)
        return self.own_head(head)(stream_NKD, is_read, given)

    def forward(self, batch: SceneBatch) -> SceneOutputs:
        return self.answer(self.encode(batch))


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
