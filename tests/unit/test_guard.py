"""Claims about the identity guard: what it lets through moved nobody, and each sabotage is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from system.errors import GuardError
from system.miner.guard import (
    BATCH_SIZES,
    DTYPES,
    dependencies,
    fingerprints,
    largest_change,
    refuse_moved,
    refuse_shared,
    refuse_side_effects,
    trainable_parameters,
)
from system.miner.miner_config import OwnHead, SceneMinerConfig
from system.miner.model import SceneMiner
from system.miner.scene_batch import SceneFeatures
from system.miner.taxonomy import load_taxonomy
from tests.fake_tower import FakeTower, fake_batch

CONFIG = SceneMinerConfig(stream_dim=32, head_parameters=8_000)
OWN = OwnHead(name="animals", tags=("deer",))


def base() -> SceneMiner:
    """A trained model: every head but `tags` has a reader that says something."""
    model = SceneMiner.untrained(FakeTower(), CONFIG, load_taxonomy())
    for head in ("embedding", "risk", "forecast"):
        model.add_reader(head)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def probe(model: SceneMiner) -> SceneFeatures:
    return model.encode(fake_batch([2, 0, 3, 1] * 5))


def upgrade(model: SceneMiner, head: str, features: SceneFeatures, steps: int = 5) -> None:
    """Train the newest reader of a head for a few steps, as the trainer does."""
    model.add_reader(head)
    parameters = trainable_parameters(model, head, features)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.05)
    features = features.rows(features.tokens.is_seen_NK.any(-1))
    for _ in range(steps):
        optimizer.zero_grad()
        sum((output**3).sum() for output in model.answers(features)[head]).backward()
        optimizer.step()
    model.requires_grad_(False)


@pytest.mark.parametrize("head", ["tags", "embedding", "risk", "forecast"])
def test_an_upgrade_moves_its_head_and_no_other_by_a_bit(head):
    model, before = base(), base()
    features = probe(model)
    expected = fingerprints(before, features, leave_out=[head])
    upgrade(model, head, features)
    refuse_moved(model, before, features, expected, fingerprints(model, features))
    change = largest_change(model, before, features)
    assert change.pop(head) > 1e-3 and set(change.values()) == {0.0}


def test_a_chain_of_four_upgrades_leaves_every_earlier_head_as_it_was():
    model = base()
    features = probe(model)
    upgrade(model, "tags", features)
    before = fingerprints(model, features)
    first = [f for f in before if f.head == "tags"]
    for head in ("embedding", "risk", "animals"):
        if head == "animals":
            model.add_own_head(OWN)
        upgrade(model, head, features)
        after = fingerprints(model, features)
        siblings = [f for f in before if f.head != head]
        assert siblings and [f for f in after if f.head in {s.head for s in siblings}] == siblings
        before = after
    assert first and [f for f in before if f.head == "tags"] == first


def test_fingerprints_cover_every_output_dtype_and_batch_size_and_tell_a_hair():
    model = base()
    features = probe(model)
    found = fingerprints(model, features)
    assert len(found) == len(DTYPES) * len(BATCH_SIZES) * 5  # the forecast has two outputs
    assert {(f.dtype, f.batch_size) for f in found} == {(d, s) for d in DTYPES for s in BATCH_SIZES}
    assert fingerprints(model, features) == found
    model.risk.readers[0].out.bias.data += 1e-5
    changed = {f.head for f in set(found) ^ set(fingerprints(model, features))}
    assert changed == {"risk"}


def test_fingerprinting_leaves_the_weights_alone():
    model = base()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fingerprints(model, probe(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_only_a_newest_readers_parameters_may_be_trained():
    model = base()
    features = probe(model)
    with pytest.raises(GuardError, match="'tags' has no reader to train"):
        trainable_parameters(model, "tags", features)
    model.add_reader("risk")
    names = trainable_parameters(model, "risk", features)
    assert names.keys() == {name for name, _ in model.named_parameters() if name.startswith("risk.readers.1.")}


def test_a_trainable_weight_of_the_stream_is_refused_by_name():
    model = base()
    model.add_reader("tags")
    chosen = {"stream.mean_in.bias": model.stream.mean_in.bias}
    with pytest.raises(GuardError, match=r"'embedding' depends on stream\.mean_in\.bias"):
        refuse_shared(model, "tags", chosen, probe(model))


def test_a_parameter_that_was_given_to_two_heads_is_found_whatever_its_name():
    model = base()
    reader = model.add_reader("tags")
    reader.queries = model.risk.readers[0].queries  # shared under another name
    with pytest.raises(GuardError, match=r"'risk' depends on"):
        trainable_parameters(model, "tags", probe(model))


def test_dependencies_leave_requires_grad_as_it_was():
    model = base()
    found = dependencies(model, dict(model.named_parameters()), probe(model))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(any(name.startswith("stream.") for name in found[head]) for head in ("embedding", "risk", "forecast"))
    assert not found["tags"]  # it has no reader yet


class WritesToTheStream(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, stream_NKD, is_read_NK, extra_NX=None, summary_NS=None):
        stream_NKD += 1e-3
        return self.inner(stream_NKD, is_read_NK, extra_NX, summary_NS)


class DrawsNumbers(WritesToTheStream):
    def forward(self, stream_NKD, is_read_NK, extra_NX=None, summary_NS=None):
        return F.dropout(self.inner(stream_NKD, is_read_NK, extra_NX, summary_NS), 0.5, training=True)


class WritesUnseen(WritesToTheStream):
    def forward(self, stream_NKD, is_read_NK, extra_NX=None, summary_NS=None):
        stream_NKD.numpy()[0] += 1e-3
        return self.inner(stream_NKD, is_read_NK, extra_NX, summary_NS)


class WritesToAWeight(WritesToTheStream):
    def __init__(self, inner: nn.Module, sibling: nn.Parameter) -> None:
        super().__init__(inner)
        self.sibling = (sibling,)

    def forward(self, stream_NKD, is_read_NK, extra_NX=None, summary_NS=None):
        self.sibling[0].data += 1e-3
        return self.inner(stream_NKD, is_read_NK, extra_NX, summary_NS)


class DrawsFromNumpy(WritesToTheStream):
    def forward(self, stream_NKD, is_read_NK, extra_NX=None, summary_NS=None):
        return self.inner(stream_NKD, is_read_NK, extra_NX, summary_NS) + np.random.rand()


@pytest.mark.parametrize("sabotage", [WritesToTheStream, WritesUnseen])
def test_a_head_that_writes_to_the_stream_is_refused_by_name(sabotage):
    model = base()
    model.risk.readers[0] = sabotage(model.risk.readers[0]).eval()
    with pytest.raises(GuardError, match="'risk' writes to the shared stream"):
        refuse_side_effects(model, "risk", probe(model))


def test_a_head_that_writes_to_a_weight_of_another_is_refused_by_name():
    model = base()
    model.risk.readers[0] = WritesToAWeight(model.risk.readers[0], model.forecast.readers[0].queries).eval()
    with pytest.raises(GuardError, match=r"'risk' writes to forecast\.readers\.0\.queries"):
        refuse_side_effects(model, "risk", probe(model))


@pytest.mark.parametrize("sabotage", [DrawsNumbers, DrawsFromNumpy])
def test_a_head_that_draws_random_numbers_is_refused_by_name(sabotage):
    model = base()
    model.risk.readers[0] = sabotage(model.risk.readers[0]).eval()
    with pytest.raises(GuardError, match="'risk' draws random numbers"):
        refuse_side_effects(model, "risk", probe(model))


class NormedStream(nn.Module):
    def __init__(self, inner: nn.Module, dim: int) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm1d(dim)

    def forward(self, tokens):
        return self.norm(self.inner(tokens).transpose(1, 2)).transpose(1, 2)


def test_a_batch_norm_in_training_mode_that_others_read_is_refused_by_name():
    model = base()
    model.stream = NormedStream(model.stream, CONFIG.stream_dim).eval()
    refuse_side_effects(model, "risk", probe(model))
    model.stream.norm.train()
    with pytest.raises(GuardError, match=r"stream\.norm is in training mode"):
        refuse_side_effects(model, "risk", probe(model))


def test_a_batch_norm_in_training_mode_of_the_head_itself_is_refused_by_name():
    model = base()
    model.risk.readers[0].norm_in = nn.BatchNorm1d(4).train()
    with pytest.raises(GuardError, match=r"risk\.readers\.0\.norm_in is in training mode"):
        refuse_side_effects(model, "risk", probe(model))


def test_a_sibling_that_moved_is_named_with_how_much():
    model, before = base(), base()
    features = probe(model)
    expected = fingerprints(before, features, leave_out=["tags"])
    model.stream.mean_in.bias.data += 1e-4
    with pytest.raises(GuardError, match=r"head 'embedding' moved by up to \d.*embedding, forecast, risk in all"):
        refuse_moved(model, before, features, expected, fingerprints(model, features))
