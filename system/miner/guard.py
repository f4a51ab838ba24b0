"""The identity guard: an upgrade of one head moves no other head's answer by a single bit.

Before training, the autograd graph decides what may be trained: a parameter that any sibling's answer depends on may
not, whatever it is called. After training, the siblings answer a fixed probe batch again, in three number formats and
two batch sizes, and every answer's bytes must be what they were.
"""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from system.errors import GuardError
from system.miner.model import SceneMiner
from system.miner.scene_batch import SceneFeatures

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCH_SIZES = (1, 16)


@dataclass(frozen=True)
class Fingerprint:
    """What one output of a head is on the probe.

    output: its place in the head's answer. workers: how many processes shared the batches.
    """

    head: str
    output: int
    dtype: str
    batch_size: int
    workers: int
    shape: tuple[int, ...]
    sha256: str


def trainable_parameters(miner: SceneMiner, head: str, probe: SceneFeatures) -> dict[str, nn.Parameter]:
    """The parameters that an upgrade of a head may train: its newest reader's, if no sibling depends on one of them.

    Raises:
        ConfigError: no such head. GuardError: a sibling's answer depends on one of them: which, and whose.
    """
    if head not in miner.heads or not len(miner.heads[head].readers):
        raise GuardError(f"head {head!r} has no reader to train; add one first")
    newest = {id(parameter) for parameter in miner.heads[head].readers[-1].parameters()}
    chosen = {name: parameter for name, parameter in miner.named_parameters() if id(parameter) in newest}
    refuse_shared(miner, head, chosen, probe)
    return chosen


def refuse_shared(miner: SceneMiner, head: str, chosen: dict[str, nn.Parameter], probe: SceneFeatures) -> None:
    """Refuse to train parameters of `chosen` that a sibling of `head` depends on, and those the head does not read.

    Raises:
        GuardError: which parameter, and which sibling depends on it.
    """
    for sibling, names in dependencies(miner, chosen, probe).items():
        if sibling != head and names:
            raise GuardError(
                f"upgrade of head {head!r}: head {sibling!r} depends on {_few(names)}; only parameters that no sibling "
                "reads may be trained"
            )
        if sibling == head and (unread := chosen.keys() - names):
            raise GuardError(f"upgrade of head {head!r}: its answer does not depend on {_few(unread)}")


def dependencies(miner: SceneMiner, parameters: dict[str, nn.Parameter], probe: SceneFeatures) -> dict[str, set[str]]:
    """{head: names of the parameters that its answer depends on}, by backpropagation through each head's answer."""
    before = {parameter: parameter.requires_grad for parameter in parameters.values()}
    try:
        for parameter in before:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            answers = miner.answers(probe)
        found = {}
        for head, outputs in answers.items():
            total = sum(output.nan_to_num().float().sum() for output in outputs)
            gradients: Sequence[Tensor | None] = [None] * len(before)
            if isinstance(total, Tensor) and total.requires_grad:
                gradients = torch.autograd.grad(total, list(before), retain_graph=True, allow_unused=True)
            found[head] = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        return found
    finally:
        for parameter, requires_grad in before.items():
            parameter.requires_grad_(requires_grad)


def refuse_side_effects(miner: SceneMiner, head: str, probe: SceneFeatures) -> None:
    """Refuse a head that changes what its siblings read: stream, features, weights, buffers, random states.

    Bytes are compared, since a write through numpy or `.data` leaves no trace in the autograd graph.

    Raises:
        GuardError: what it writes to.
    """
    for name, module in miner.named_modules():
        if module.training:
            raise GuardError(f"upgrade of head {head!r}: {name or 'the model'} is in training mode")
    with torch.no_grad():
        stream = miner.stream(probe.tokens)
        watched = {"the shared stream": stream, **probe.tensors(), **miner.state_dict()}
        before = {name: sha256_of(tensor) for name, tensor in watched.items()}
        random_states = _random_states()
        miner.answer_of(head, stream, probe)
    for name, tensor in watched.items():
        if sha256_of(tensor) != before[name]:
            raise GuardError(f"head {head!r} writes to {name}; heads read it and never write to it")
    if _random_states() != random_states:
        raise GuardError(f"head {head!r} draws random numbers when it answers")


# (head, output, dtype, batch size, number of the batch) -> what the head says of that batch.
Shares = dict[tuple[str, int, str, int, int], Tensor]


def answer_share(
    miner: SceneMiner, probe: SceneFeatures, rank: int = 0, world: int = 1, leave_out: Iterable[str] = ()
) -> Shares:
    """One worker's part of the answers to the probe: every world-th batch, in each dtype and batch size."""
    left_out = set(leave_out)
    found: Shares = {}
    for dtype_name, dtype in DTYPES.items():
        typed = SceneFeatures.of({n: t.to(dtype) if t.is_floating_point() else t for n, t in probe.tensors().items()})
        with torch.no_grad(), _in_dtype(miner, dtype):
            for size in BATCH_SIZES:
                for batch, start in enumerate(range(0, len(probe), size)):
                    if batch % world != rank:
                        continue
                    answers = miner.answers(typed.rows(slice(start, start + size)))
                    for head, outputs in answers.items():
                        if head not in left_out:
                            found |= {(head, k, dtype_name, size, batch): output for k, output in enumerate(outputs)}
    return found


def fingerprint_shares(shares: Sequence[Shares]) -> list[Fingerprint]:
    """SHA-256 of every output, put together from what the workers answered."""
    whole: Shares = {}
    for share in shares:
        whole |= share
    outputs: dict[tuple[str, int, str, int], list[Tensor]] = {}
    for key in sorted(whole):
        outputs.setdefault(key[:4], []).append(whole[key])
    found = []
    for (head, output, dtype, size), parts in outputs.items():
        tensor = torch.cat(parts)
        found.append(Fingerprint(head, output, dtype, size, len(shares), tuple(tensor.shape), sha256_of(tensor)))
    return found


def fingerprints(miner: SceneMiner, probe: SceneFeatures, leave_out: Iterable[str] = ()) -> list[Fingerprint]:
    """SHA-256 of every head's every output on the probe, in each dtype and batch size, by this process alone."""
    return fingerprint_shares([answer_share(miner, probe, leave_out=leave_out)])


def refuse_moved(
    miner: SceneMiner,
    before: SceneMiner,
    probe: SceneFeatures,
    expected: Sequence[Fingerprint],
    actual: Iterable[Fingerprint],
) -> None:
    """Refuse a model whose siblings do not answer what they did.

    Args:
        before: the model that the upgrade began with, to say how much a sibling moved.
        expected: fingerprints of the siblings in that model. actual: of the upgraded model.
    Raises:
        GuardError: which head moved, and by how much at most.
    """
    now = set(actual)
    moved = [fingerprint for fingerprint in expected if fingerprint not in now]
    if moved:
        first = moved[0]
        change = largest_change(miner, before, probe)[first.head]
        raise GuardError(
            f"head {first.head!r} moved by up to {change:.3g} ({first.dtype}, batches of {first.batch_size}, "
            f"{first.workers} workers), and {_few({fingerprint.head for fingerprint in moved})} in all; the model is "
            "not published"
        )


def largest_change(miner: SceneMiner, before: SceneMiner, probe: SceneFeatures) -> dict[str, float]:
    """{head: largest absolute difference of its answers to the probe}, for the heads that both models have."""

    def change(a: Tensor, b: Tensor) -> float:
        both_unknown = a.isnan() & b.isnan()
        return float((a - b).abs().masked_fill(both_unknown, 0.0).nan_to_num(nan=torch.inf).max())

    with torch.no_grad():
        new, old = miner.answers(probe), before.answers(probe)
    return {head: max(change(a, b) for a, b in zip(new[head], old[head], strict=True)) for head in old if head in new}


def sha256_of(tensor: Tensor) -> str:
    """Of a tensor's bytes in main memory; every NaN counts as the same."""
    plain = tensor.detach()
    if plain.is_floating_point():
        plain = plain.masked_fill(plain.isnan(), torch.nan)
    return hashlib.sha256(plain.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


@contextmanager
def _in_dtype(miner: SceneMiner, dtype: torch.dtype) -> Iterator[None]:
    """The model in another number format; afterwards its float32 weights are back, bit by bit."""
    if dtype == torch.float32:
        yield
        return
    exact = {name: tensor.clone() for name, tensor in miner.state_dict().items()}
    try:
        miner.to(dtype)
        yield
    finally:
        miner.to(torch.float32)
        miner.load_state_dict(exact)


def _random_states() -> tuple[str, str, str]:
    """Of torch, numpy and Python."""
    of_numpy = pickle.dumps(np.random.get_state())
    return sha256_of(torch.random.get_rng_state()), hashlib.sha256(of_numpy).hexdigest(), repr(random.getstate())


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
