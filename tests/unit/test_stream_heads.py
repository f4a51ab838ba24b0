"""Claims about the shared stream, the heads and the kinematic forecast."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from system.miner.bev import NUM_CELLS, BevTokens
from system.miner.forecast import MODES, ambiguity_m, kinematic_modes
from system.miner.heads import EmbeddingHead, ForecastHead, Head, OwnTagHead, RiskHead, StreamReader, TagHead, ego_facts
from system.miner.stream import SceneStream, attend, readable

PATCH_DIM, DIM = 12, 32
EGO = torch.tensor([[10.0, 0.2, -1.0]])


def tokens(scenes: int = 3, seed: int = 0, seen_share: float = 0.5) -> BevTokens:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    seen = torch.rand(scenes, NUM_CELLS, generator=generator) < seen_share
    mask = seen[..., None]
    mean, trend = (mask * random(scenes, NUM_CELLS, PATCH_DIM) for _ in range(2))
    return BevTokens(mean, trend, seen * random(scenes, NUM_CELLS).abs(), seen)


SIZE = 5_000


def upgraded(head: Head, times: int = 1) -> Head:
    for _ in range(times):
        head.add_reader()
    return head


def stream() -> SceneStream:
    torch.manual_seed(0)
    return SceneStream(PATCH_DIM, DIM, num_blocks=2, num_heads=4)


def test_what_nobody_saw_has_no_influence():
    model, given_tokens = stream(), tokens()
    unseen = ~given_tokens.is_seen_NK
    rubbish = BevTokens(
        given_tokens.mean_NKC + 100 * unseen[..., None],
        given_tokens.trend_NKC - 100 * unseen[..., None],
        given_tokens.time_s_NK + 9 * unseen,
        given_tokens.is_seen_NK,
    )
    head = StreamReader(DIM, 16, 5, num_heads=4)
    torch.nn.init.normal_(head.out.weight)
    is_read = readable(given_tokens.is_seen_NK)
    torch.testing.assert_close(model(given_tokens)[is_read], model(rubbish)[is_read])
    torch.testing.assert_close(head(model(given_tokens), is_read), head(model(rubbish), is_read))


def test_the_stream_knows_place_and_time():
    model, base = stream(), tokens(1, seen_share=1.0)
    swapped = BevTokens(*(x.roll(1, dims=1) for x in (base.mean_NKC, base.trend_NKC, base.time_s_NK, base.is_seen_NK)))
    assert not torch.allclose(model(base).roll(1, dims=1), model(swapped), atol=1e-3)
    later = BevTokens(base.mean_NKC, base.trend_NKC, base.time_s_NK + 0.5, base.is_seen_NK)
    assert not torch.allclose(model(base), model(later), atol=1e-3)
    moving = BevTokens(base.mean_NKC, base.trend_NKC + 1.0, base.time_s_NK, base.is_seen_NK)
    assert not torch.allclose(model(base), model(moving), atol=1e-3)


def test_the_stream_does_not_depend_on_the_towers_scale():
    model, base = stream(), tokens(2, seen_share=1.0)
    scaled = BevTokens(1000 * base.mean_NKC, 1000 * base.trend_NKC, base.time_s_NK, base.is_seen_NK)
    torch.testing.assert_close(model(base), model(scaled), rtol=1e-3, atol=1e-3)


def test_a_scene_without_pictures_gives_finite_numbers():
    empty = tokens(2, seen_share=0.0)
    assert stream()(empty).isfinite().all() and readable(empty.is_seen_NK).all()


def test_training_and_inference_give_the_same_bits():
    model, base = stream(), tokens()
    head = upgraded(RiskHead(DIM, 1, 4, SIZE))
    torch.nn.init.normal_(head.readers[0].out.weight)
    is_read, ego = readable(base.is_seen_NK), EGO.repeat(len(base.is_seen_NK), 1)
    with torch.inference_mode():
        inferred = head.eval()(model.eval()(base), is_read, ego).clone()
    assert torch.equal(head.train()(model.train()(base), is_read, ego), inferred)


def test_attention_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, DIM, generator=generator) for n in (3, NUM_CELLS, NUM_CELLS))
    is_read = torch.rand(2, NUM_CELLS, generator=generator) < 0.5
    parts = [x.unflatten(-1, (4, -1)).transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=is_read[:, None, None])
    torch.testing.assert_close(attend(q, k, v, is_read, 4), expected.transpose(1, 2).flatten(-2))


@pytest.mark.parametrize("upgrades", [0, 1, 3])
def test_heads_start_by_adding_nothing_bit_by_bit(upgrades):
    base, is_read = stream()(tokens()), readable(tokens().is_seen_NK)
    g, logits = torch.randn(3, 16), 9 * torch.randn(3, 20)
    embedding, tags = (
        upgraded(head, upgrades) for head in (EmbeddingHead(DIM, 16, 4, SIZE), TagHead(DIM, 20, 4, SIZE))
    )
    assert torch.equal(embedding(base, is_read, g), torch.nn.functional.normalize(g, dim=-1))
    assert torch.equal(tags(base, is_read, logits), logits)
    paths, probability = upgraded(ForecastHead(DIM, 3.0, 6, 4, SIZE), upgrades)(base, is_read, EGO.repeat(3, 1))
    prior_paths, prior_logits = kinematic_modes(EGO.repeat(3, 1), 3.0, 6)
    assert torch.equal(paths, prior_paths) and torch.equal(probability, prior_logits.softmax(-1))
    assert upgraded(RiskHead(DIM, 1, 4, SIZE), upgrades)(base, is_read, EGO.repeat(3, 1)).tolist() == [0.5] * 3
    assert upgraded(OwnTagHead(DIM, 2, 4, SIZE), upgrades)(base, is_read).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("outputs", [1, 2, 13, 20, 384, 768])
def test_an_upgrade_has_about_102k_parameters_whatever_the_head_answers(outputs):
    reader = TagHead(128, outputs, 4, 102_000).add_reader()
    assert 101_000 < sum(p.numel() for p in reader.parameters()) <= 102_000


def test_risk_stays_under_one_however_sure_the_head_is():
    head = upgraded(RiskHead(DIM, 1, 4, SIZE))
    torch.nn.init.constant_(head.readers[0].out.bias, 1e6)
    assert (head(stream()(tokens()), readable(tokens().is_seen_NK), EGO.repeat(3, 1)) < 1).all()


def test_an_unknown_motion_of_the_ego_is_told_from_standing_still():
    facts = ego_facts(torch.tensor([[torch.nan, torch.nan, torch.nan], [0.0, 0.0, 0.0], [10.0, 0.3, -2.0]]))
    assert facts.tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], pytest.approx([1, 1, -1, 1, 1, 1])]


def test_every_parameter_of_stream_and_heads_learns():
    base = tokens(4)
    model, is_read = stream(), readable(base.is_seen_NK)
    heads = torch.nn.ModuleList([EmbeddingHead(DIM, 16, 4, SIZE), TagHead(DIM, 20, 4, SIZE), RiskHead(DIM, 1, 4, SIZE)])
    forecast = ForecastHead(DIM, 3.0, 6, 4, SIZE)
    for module in [*heads, forecast]:
        torch.nn.init.normal_(upgraded(module).readers[0].out.weight)
    read = model(base)
    paths, probability = forecast(read, is_read, EGO.repeat(4, 1))
    loss = heads[0](read, is_read, torch.randn(4, 16)).sum() + heads[1](read, is_read, torch.randn(4, 20)).sum()
    (loss + heads[2](read, is_read, EGO.repeat(4, 1)).sum() + paths.sum() + (probability**2).sum()).backward()
    for name, parameter in torch.nn.ModuleList([model, heads, forecast]).named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


# The forecast.


def modes(speed: float, yaw_rate: float, accel: float, horizon_s: float = 3.0, steps: int = 6):
    paths, logits = kinematic_modes(torch.tensor([[speed, yaw_rate, accel]], dtype=torch.float64), horizon_s, steps)
    return dict(zip(MODES, paths[0], strict=True)), dict(zip(MODES, logits[0].softmax(-1), strict=True))


@settings(deadline=None)
@given(st.floats(-5, 40), st.floats(-0.6, 0.6), st.floats(-9, 5))
def test_modes_obey_the_motion_that_they_are_named_for(speed, yaw_rate, accel):
    paths, chances = modes(speed, yaw_rate, accel, steps=300)
    for name, path in paths.items():
        assert path.isfinite().all(), name
    steps = torch.diff(paths["keep"], dim=0).norm(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, abs(speed) * 0.01), rtol=1e-3, atol=1e-6)
    stopping_m = torch.diff(paths["brake"], dim=0).norm(dim=-1).sum()
    assert stopping_m <= speed**2 / (2 * 3.0) + 1e-6
    if speed > 1:
        assert paths["speed_up"].diff(dim=0).norm(dim=-1).sum() > abs(speed) * 2.98
        assert math.isclose(sum(chances.values()), 1.0, rel_tol=1e-6)


def test_keeping_on_in_a_bend_is_an_arc():
    paths, _ = modes(10.0, 0.2, 0.0)
    radius = 10.0 / 0.2
    centre_distance = (paths["keep"] - torch.tensor([0.0, radius], dtype=torch.float64)).norm(dim=-1)
    torch.testing.assert_close(centre_distance, torch.full((6,), radius, dtype=torch.float64))


def test_left_and_right_mirror_each_other_on_a_straight_road():
    paths, chances = modes(8.0, 0.0, 0.0)
    mirror = torch.tensor([1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(paths["bear_left"], paths["bear_right"] * mirror)
    assert paths["bear_left"][-1, 1] > 3 and chances["bear_left"] == chances["bear_right"]


def test_a_standing_ego_that_keeps_standing_goes_nowhere():
    paths, _ = modes(0.0, 0.0, 0.0)
    assert not paths["keep"].any() and not paths["brake"].any() and paths["speed_up"][-1, 0] == pytest.approx(6.75)


def test_a_braking_ego_is_likelier_to_brake_and_one_in_reverse_goes_back():
    assert modes(12.0, 0.0, -3.0)[1]["brake"] > modes(12.0, 0.0, 0.0)[1]["brake"]
    assert modes(-2.0, 0.0, 0.0)[0]["keep"][-1].tolist() == [-6.0, 0.0]


def test_unknown_speed_is_unknown_and_unknown_turning_counts_as_none():
    nan = math.nan
    paths, logits = kinematic_modes(torch.tensor([[nan, 0.1, 0.0], [5.0, nan, nan]]), 3.0, 6)
    assert paths[0].isnan().all() and logits[0].isnan().all()
    torch.testing.assert_close(paths[1], kinematic_modes(torch.tensor([[5.0, 0.0, 0.0]]), 3.0, 6)[0][0])


def test_ambiguity_is_the_spread_of_the_ends():
    paths = torch.zeros(1, 2, 4, 2)
    paths[0, 0, -1], paths[0, 1, -1] = torch.tensor([3.0, 0]), torch.tensor([-3.0, 0])
    assert ambiguity_m(paths, torch.tensor([[0.5, 0.5]])).item() == pytest.approx(3.0)
    assert ambiguity_m(paths, torch.tensor([[1.0, 0.0]])).item() == 0.0
    fast, slow = (kinematic_modes(torch.tensor([[v, 0.0, 0.0]]), 3.0, 6) for v in (20.0, 2.0))
    assert ambiguity_m(fast[0], fast[1].softmax(-1)) > ambiguity_m(slow[0], slow[1].softmax(-1))
