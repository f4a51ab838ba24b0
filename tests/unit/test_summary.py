"""Claims about a scene's summary, and about the linear reader that is fitted to it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from system.errors import ModelError
from system.miner.bev import NUM_CELLS, BevTokens
from system.miner.heads import TagHead
from system.miner.miner_config import OwnHead
from system.miner.summary import EGO_NUMBERS, SummaryReader, summary, top_cells
from system.training import losses, summary_fit
from system.training.summary_fit import fit_summary
from system.training.targets import TrainingSet
from tests.unit.test_training import examples, untrained

CELLS = 6


def some_tokens(scenes: int = 4) -> BevTokens:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(scenes, NUM_CELLS, CELLS, generator=generator)
    seen = torch.rand(scenes, NUM_CELLS, generator=generator) < 0.4
    seen[-1] = False
    return BevTokens(mean, torch.zeros_like(mean), torch.zeros(scenes, NUM_CELLS), seen)


def test_top_values_are_of_the_seen_cells_alone_and_free_of_the_towers_scale():
    tokens = some_tokens()
    top_NC = top_cells(tokens)
    for n in range(3):
        held = torch.nn.functional.layer_norm(tokens.mean_NKC[n][tokens.is_seen_NK[n]], (CELLS,))
        torch.testing.assert_close(top_NC[n], held.amax(0))
    assert not top_NC[3].any()
    scaled = replace(tokens, mean_NKC=50 * tokens.mean_NKC + 3)
    torch.testing.assert_close(top_cells(scaled), top_NC, atol=1e-3, rtol=1e-3)


def test_each_number_counts_in_its_own_spread_and_the_unknown_says_nothing():
    cells = torch.tensor([[1.0, 100.0], [3.0, 300.0]])
    ego = torch.tensor([[10.0, -0.2, 1.0], [math.nan, math.nan, math.nan]])
    reader = SummaryReader(2, 1)
    reader.standardise(summary(cells, ego))
    inputs = reader.inputs(summary(cells, ego))
    torch.testing.assert_close(inputs[:, :2], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=2e-3, rtol=2e-3)
    assert not inputs[1, 2:].any() and inputs.isfinite().all()
    far = reader.inputs(summary(cells + 1e9, torch.tensor([[1e9, 1e9, -1e9]] * 2)))
    assert far.isfinite().all() and far[:, :2].abs().max() == 5


def test_a_reader_that_has_no_room_for_a_summary_has_none():
    few, many = TagHead(32, 4, 4, 9_000, CELLS), TagHead(32, 4_000, 4, 9_000, CELLS)
    assert few.add_reader().summary is not None and many.add_reader().summary is None
    with pytest.raises(ValueError, match="summary"):
        few.readers[0](torch.zeros(1, NUM_CELLS, 32), torch.ones(1, NUM_CELLS, dtype=torch.bool))


@pytest.mark.parametrize("head", ["tags", "animals"])
def test_a_fit_lowers_the_loss_sets_nothing_else_and_is_the_same_each_time(head):
    def fitted() -> tuple[dict[str, torch.Tensor], float, float, set[str]]:
        model = untrained()
        if head == "animals":
            model.add_own_head(OwnHead(name=head, tags=("deer",)))
        model.add_reader(head)
        data = examples(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        first = float(losses.head_loss(model, head, data)[0])
        names = fit_summary(model, head, data)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert not any(parameter.requires_grad for parameter in model.parameters())
        return names, first, float(losses.head_loss(model, head, data)[0]), changed

    names, first, last, changed = fitted()
    assert last < 0.9 * first
    assert changed == set(names) and all(".readers.0.summary." in name for name in names)
    again = fitted()[0]
    assert all(torch.equal(tensor, again[name]) for name, tensor in names.items())


def test_a_fit_is_the_ridge_that_scikit_learn_finds(monkeypatch):
    def squares(answers: torch.Tensor, wanted: torch.Tensor) -> losses.Summed:
        return (answers - wanted).square().sum(), torch.tensor(float(len(answers)))

    monkeypatch.setattr(summary_fit, "tag_loss", squares)
    model = untrained()
    model.add_own_head(OwnHead(name="animals", tags=("deer",)))
    model.add_reader("animals")
    data = examples(model, 60)
    fit_summary(model, "animals", data)
    reader = model.own_head("animals").readers[0].summary
    inputs = reader.inputs(summary(data.features.top_cell_NC, data.features.ego_N3)).numpy()
    theirs = Ridge(alpha=0.03 * len(data)).fit(inputs, data.targets.own_NL[:, 0].numpy())
    np.testing.assert_allclose(reader.out.weight.detach().numpy()[0], theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(float(reader.out.bias), theirs.intercept_, atol=1e-3)


def test_unknown_labels_have_no_part_in_a_fit():
    model, other = untrained(), untrained()
    data = examples(model)
    for miner in (model, other):
        miner.add_reader("tags")
    hidden = data.targets.tags_NK.clone()
    hidden[10:] = -1
    changed = replace(data, targets=replace(data.targets, tags_NK=hidden))
    fit_summary(model, "tags", changed)
    fit_summary(other, "tags", data.rows(torch.arange(10)))
    ours, theirs = model.tags.readers[0].summary, other.tags.readers[0].summary
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    empty = replace(data, targets=replace(data.targets, tags_NK=torch.full_like(hidden, -1)))
    nothing = untrained()
    nothing.add_reader("tags")
    fit_summary(nothing, "tags", empty)
    assert not nothing.tags.readers[0].summary.out.weight.any()


def test_broken_features_end_a_fit_with_the_heads_name():
    model = untrained()
    model.add_reader("tags")
    data = examples(model)
    broken = TrainingSet(
        replace(data.features, zero_shot_logits_NK=data.features.zero_shot_logits_NK * math.nan), data.targets
    )
    with pytest.raises(ModelError, match="head 'tags'"):
        fit_summary(model, "tags", broken)


def test_ego_numbers_are_those_of_a_summary():
    assert summary(torch.zeros(1, CELLS), torch.zeros(1, 3)).shape == (1, CELLS + EGO_NUMBERS)


def test_the_fit_of_a_tag_does_not_depend_on_what_is_known_of_others():
    found = []
    for known in (1, 8):
        model = untrained()
        model.add_reader("tags")
        data = examples(model)
        tags = data.targets.tags_NK.clone()
        tags[:, known:] = -1
        fit_summary(model, "tags", replace(data, targets=replace(data.targets, tags_NK=tags)))
        found.append(model.tags.readers[0].summary.out.weight[0].detach().clone())
    torch.testing.assert_close(found[0], found[1], atol=2e-3, rtol=2e-3)
