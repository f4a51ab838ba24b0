"""What is trained: the stream with its first heads, or one new reader of one head."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from system.miner.guard import refuse_side_effects, trainable_parameters
from system.miner.model import SceneMiner
from system.miner.scene_batch import SceneFeatures
from system.training.losses import Summed, head_loss, reconstruction_loss
from system.training.summary_fit import fit_summary
from system.training.targets import TrainingSet

BASE_HEADS = ("risk", "forecast")
# Of the training that it is for; a loss of about 1 each at the start.
_BASE_WEIGHTS = {"risk": 1.0, "forecast": 1.0, "reconstruction": 1.0}


class Task:
    """Parameters and losses of one training. The model's other parameters stay frozen.

    fitted: what was fitted to its end before this training begins, by its name in the model; it stays as it is.
    """

    def __init__(
        self,
        miner: SceneMiner,
        parameters: dict[str, nn.Parameter],
        weights: dict[str, float],
        fitted: dict[str, Tensor] | None = None,
    ) -> None:
        self.miner, self.weights, self.fitted = miner, weights, fitted or {}
        self.parameters = {name: parameter for name, parameter in parameters.items() if name not in self.fitted}

    @property
    def num_parameters(self) -> int:
        """Learnt ones of the model, fitted ones among them."""
        fitted = (tensor for tensor in self.fitted.values() if isinstance(tensor, nn.Parameter))
        return sum(p.numel() for p in (*self.parameters.values(), *fitted))

    def prepare(self, data: TrainingSet) -> TrainingSet:
        """Compute once what does not change while this task trains."""
        return data

    def losses(self, data: TrainingSet) -> dict[str, Summed]:
        """Each loss as (sum, count)."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What the task has learnt so far, by name."""
        return {name: tensor.detach().cpu().clone() for name, tensor in (self.parameters | self.fitted).items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            for name, tensor in (self.parameters | self.fitted).items():
                tensor.copy_(state[name])


class BaseTask(Task):
    """The stream, the first risk and forecast readers, and a decoder that is thrown away afterwards."""

    def __init__(self, miner: SceneMiner) -> None:
        for head in BASE_HEADS:
            miner.add_reader(head)
        parameters = {
            name: parameter
            for name, parameter in miner.named_parameters()
            if name.startswith(("stream.", *(f"{head}." for head in BASE_HEADS)))
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(miner.config.seed)
            self._decoder = nn.Linear(miner.config.stream_dim, miner.tower.patch_dim)
        self._decoder.to(next(iter(parameters.values())).device)
        parameters |= {f"decoder.{name}": parameter for name, parameter in self._decoder.named_parameters()}
        super().__init__(miner, parameters, _BASE_WEIGHTS)

    @property
    def num_parameters(self) -> int:
        """Without the decoder, which is no part of the model."""
        return super().num_parameters - sum(parameter.numel() for parameter in self._decoder.parameters())

    def losses(self, data: TrainingSet) -> dict[str, Summed]:
        features = data.features
        stream = self.miner.stream(features.tokens)
        whole = TrainingSet(features, data.targets, stream)
        return {head: head_loss(self.miner, head, whole) for head in BASE_HEADS} | {
            "reconstruction": reconstruction_loss(self._decoder(stream), features)
        }


class HeadTask(Task):
    """The newest reader of one head, and nothing that a sibling's answer depends on."""

    def __init__(self, miner: SceneMiner, head: str, probe: SceneFeatures, train: TrainingSet) -> None:
        """train: what the linear part of the reader is fitted to.

        Raises:
            GuardError: the head is not private.
        """
        self._head = head
        refuse_side_effects(miner, head, probe)
        parameters = trainable_parameters(miner, head, probe)
        super().__init__(miner, parameters, {head: 1.0}, fit_summary(miner, head, train))

    def prepare(self, data: TrainingSet) -> TrainingSet:
        return data.with_stream(lambda features: self.miner.stream(features.tokens))

    def losses(self, data: TrainingSet) -> dict[str, Summed]:
        return {self._head: head_loss(self.miner, self._head, data)}


def hash_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of named tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors):
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
