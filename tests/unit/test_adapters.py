"""Low-rank adapters: what they change, what they leave, and what is exported."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional as F

from system.backbones.vit import block_features, twin
from system.errors import ConfigError, ModelError
from system.freqkd.adapters import (
    _LowRankUpdate,
    adapted_layers,
    adapter_parameters,
    adapter_state,
    add_adapters,
    load_adapter_state,
    merge,
)

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def vit():
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()


def learnt(rank: int = 4, **settings: float):
    """A model whose adapters have left their start."""
    model = add_adapters(vit(), rank, alpha=8, dropout=settings.get("dropout", 0.0), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("rank", [4, 0])
def test_new_adapters_change_no_answer_and_only_they_are_trained(rank: int):
    plain = vit()
    model = add_adapters(vit(), rank, 8, 0.05, seed=0)
    assert torch.equal(block_features(model, IMAGES, [3])[0], block_features(plain, IMAGES, [3])[0])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(adapter_parameters(model)) and len(adapted_layers(model)) == 3 * len(model.blocks)


@pytest.mark.parametrize("rank", [4, 0])
def test_merged_weights_give_the_adapted_answers_in_a_plain_model(rank: int):
    model, plain = learnt(rank), vit()
    plain.load_state_dict(merge(model, 1.0))
    torch.testing.assert_close(block_features(plain, IMAGES, [3]), block_features(model, IMAGES, [3]))


def test_the_merge_factor_scales_the_update_and_zero_is_the_base():
    model, base = learnt(), vit().state_dict()
    none, half, whole = (merge(model, factor) for factor in (0.0, 0.5, 1.0))
    name = "blocks.1.mlp.fc2.weight"
    assert all(torch.equal(none[key], base[key]) for key in base)
    torch.testing.assert_close(half[name] - base[name], (whole[name] - base[name]) / 2)
    update = adapted_layers(model)["blocks.1.mlp.fc2"]
    torch.testing.assert_close(whole[name] - base[name], 8 / 4 * update.lora_b @ update.lora_a)


def test_the_gradient_is_the_one_that_autograd_derives_with_and_without_dropout():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, grad: bool = True) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.double, generator=generator).requires_grad_(grad)

    x, a, b = draw(2, 3, 5), draw(2, 5), draw(4, 2)
    weight, bias = draw(4, 5, grad=False), draw(4, grad=False)
    kept = torch.rand(2, 3, 5, generator=generator) > 0.3
    for mask in (None, kept):
        seen = x if mask is None else x * mask
        expected = F.linear(x, weight, bias) + 0.7 * F.linear(F.linear(seen, a), b)
        torch.testing.assert_close(_LowRankUpdate.apply(x, weight, bias, a, b, mask, 0.7), expected)
        assert torch.autograd.gradcheck(
            lambda x, a, b, mask=mask: _LowRankUpdate.apply(x, weight, bias, a, b, mask, 0.7), (x, a, b)
        )


def test_dropout_drops_its_share_keeps_the_mean_and_belongs_to_the_picture():
    layer = adapted_layers(learnt(dropout=0.25))["blocks.0.attn.qkv"].train()
    tokens = torch.ones(2, 500, layer.in_features)

    def kept(*seeds: int) -> torch.Tensor:
        layer.dropout_generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return layer._kept(tokens[: len(seeds)])

    both = kept(1, 2)
    assert 0.74 < both.float().mean() < 0.76
    assert torch.equal(both[1], kept(2)[0]) and not torch.equal(both[0], both[1])


def test_the_start_depends_on_the_seed_and_not_on_how_many_blocks_are_adapted():
    few, many, other = (add_adapters(vit(), 4, 8, 0, seed, last) for seed, last in ((1, 1), (1, None), (2, 1)))
    name = "blocks.1.mlp.fc1.lora_a"
    few_state, many_state, other_state = (adapter_state(model) for model in (few, many, other))
    assert torch.equal(few_state[name], many_state[name]) and not torch.equal(few_state[name], other_state[name])
    assert not any(key.startswith("blocks.2") for key in few_state)


def test_adapters_can_be_saved_and_loaded():
    model = learnt()
    other = add_adapters(vit(), 4, 8, 0, seed=9)
    load_adapter_state(other, adapter_state(model))
    assert torch.equal(block_features(other, IMAGES, [2])[0], block_features(model, IMAGES, [2])[0])
    with pytest.raises(ModelError, match="another rank"):
        load_adapter_state(add_adapters(vit(), 2, 8, 0, seed=9), adapter_state(model))
    with pytest.raises(ModelError, match="differ"):
        load_adapter_state(add_adapters(vit(), 4, 8, 0, 9, last_block=0), adapter_state(model))


def test_a_twin_does_not_see_what_its_sibling_learns():
    model = vit()
    teacher = twin(model)
    before = block_features(teacher, IMAGES, [2])[0]
    add_adapters(model, 4, 8, 0, seed=0)
    with torch.no_grad():
        adapter_parameters(model)["blocks.0.attn.qkv.lora_b"].fill_(1)
    assert torch.equal(block_features(teacher, IMAGES, [2])[0], before)
    assert not torch.equal(block_features(model, IMAGES, [2])[0], before)


def test_a_rank_beyond_the_width_and_a_second_set_are_refused():
    with pytest.raises(ConfigError, match=r"rank 1000: expected 1\.\.64, or 0"):
        add_adapters(vit(), 1000, 8, 0, seed=0)
    with pytest.raises(ModelError, match="has adapters already"):
        add_adapters(learnt(), 4, 8, 0, seed=0)
