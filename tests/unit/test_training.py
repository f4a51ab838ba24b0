"""Claims about training: unknown is never learnt from, runs repeat and go on bit by bit, bad losses stop early."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from system.errors import ModelError
from system.miner.miner_config import OwnHead, SceneMinerConfig
from system.miner.model import SceneMiner
from system.miner.taxonomy import load_taxonomy
from system.training.config import TrainConfig
from system.training.loop import Trainer
from system.training.losses import embedding_loss, forecast_loss, head_loss, risk_loss, tag_loss
from system.training.metrics import (
    average_precision,
    bootstrap,
    choose_thresholds,
    forecast_errors,
    micro_f1,
    retrieval_at,
    roc_area,
    spearman,
    top_decile_share,
)
from system.training.study import AdaptedStream, Run, StudyConfig, summarise
from system.training.targets import Targets, TrainingSet
from system.training.task import BaseTask, HeadTask
from tests.fake_tower import FakeTower, fake_batch

CONFIG = SceneMinerConfig(stream_dim=32, head_parameters=8_000)
TRAIN = TrainConfig(epochs=4, batch_size=8, learning_rate=3e-3)
TAXONOMY = load_taxonomy()


def untrained() -> SceneMiner:
    return SceneMiner.untrained(FakeTower(), CONFIG, TAXONOMY)


def examples(model: SceneMiner, scenes: int = 24, seed: int = 0) -> TrainingSet:
    """Scenes of one or two pictures, and labels that their features decide."""
    features = model.encode(fake_batch([1 + n % 2 for n in range(scenes)], seed))
    signal = features.mean_embedding_NE
    tags = (signal[:, :1] > signal[:, :1].median()).to(torch.int8).repeat(1, len(TAXONOMY.tags))
    steps = torch.arange(1, CONFIG.forecast_steps + 1) * (CONFIG.forecast_horizon_s / CONFIG.forecast_steps)
    path = torch.stack([10 * steps, signal[:1, 1] * steps], -1).expand(scenes, -1, -1).clone()
    targets = Targets(
        tags_NK=tags, own_NL=tags[:, :1], risk_N=torch.sigmoid(4 * signal[:, 2]), future_NT2=path.contiguous()
    )
    return TrainingSet(features, targets)


def base_trainer(config: TrainConfig = TRAIN, data: TrainingSet | None = None) -> Trainer:
    model = untrained()
    train = data if data is not None else examples(model)
    return Trainer(BaseTask(model), train, examples(model, 10, seed=1), config)


def head_trainer(head: str, config: TrainConfig = TRAIN) -> tuple[SceneMiner, Trainer]:
    model = untrained()
    if head not in model.heads:
        model.add_own_head(OwnHead(name=head, tags=("deer",)))
    model.add_reader(head)
    train = examples(model)
    return model, Trainer(HeadTask(model, head, train.features, train), train, train, config)


def test_a_base_learns_what_it_is_taught():
    history = base_trainer(replace_config(epochs=12)).run().history
    for loss in ("risk", "forecast", "reconstruction"):
        assert history[-1][f"train/{loss}"] < 0.8 * history[1][f"train/{loss}"], loss


@pytest.mark.parametrize("head", ["tags", "embedding", "risk", "forecast", "animals"])
def test_a_head_learns_and_its_siblings_stay(head):
    model, trainer = head_trainer(head, replace_config(epochs=12))
    features = examples(model).features
    before = model.answers(features)
    history = trainer.run().history
    assert history[-1][f"train/{head}"] < history[1][f"train/{head}"]
    for sibling, outputs in model.answers(features).items():
        same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(outputs, before[sibling], strict=True))
        assert same == (sibling != head), sibling


def test_the_same_training_twice_is_the_same_to_the_bit():
    first, second = base_trainer(), base_trainer()
    assert first.run().history == second.run().history


def test_a_training_that_goes_on_ends_where_the_unbroken_one_does(tmp_path: Path):
    whole = base_trainer()
    whole.run()
    broken = base_trainer()

    def stop(trainer: Trainer) -> None:
        if trainer.progress.epoch == 2:
            trainer.save(tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.run(stop)
    continued = base_trainer()
    continued.load(tmp_path)
    continued.run()
    assert continued.progress == whole.progress
    theirs = whole._task.state()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in continued._task.state().items())


def test_the_best_epoch_is_kept_and_patience_ends_a_training():
    trainer = base_trainer(replace_config(epochs=60, patience=2, learning_rate=0.5))
    progress = trainer.run()
    assert progress.epoch < 60
    losses = [row["val/total"] for row in progress.history]
    assert progress.best_loss == min(losses) == losses[progress.best_epoch]


def test_a_loss_that_is_no_number_ends_the_training_and_says_where():
    model = untrained()
    data = examples(model)
    broken = replace(data, targets=replace(data.targets, risk_N=torch.full((len(data),), 0.5)))
    trainer = base_trainer(data=broken)
    weight = trainer._task.miner.stream.mean_in.weight.data
    with pytest.raises(ModelError, match=r"epoch 1, step 1: the loss is no number.*lower --learning-rate"):
        trainer.run(lambda _: weight.fill_(math.inf))
    with pytest.raises(ModelError, match=r"epoch 1: the validation loss is no number.*lower --learning-rate"):
        trainer._validate({})


def test_unknown_labels_reach_neither_a_loss_nor_a_gradient():
    model = untrained()
    model.add_reader("tags")
    data = examples(model)
    data.targets.tags_NK[:, 3] = -1
    data.targets.tags_NK[5:] = -1
    parameters = list(model.tags.readers[0].parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    total, count = head_loss(model, "tags", data)
    assert count == 5 * (len(TAXONOMY.tags) - 1)
    total.backward()
    assert model.tags.readers[0].out.weight.grad[3].abs().max() == 0
    assert model.tags.readers[0].out.weight.grad[2].abs().max() > 0
    data.targets.tags_NK[:] = -1
    total, count = head_loss(model, "tags", data)
    assert (float(total), float(count)) == (0.0, 0.0)


def test_scenes_without_pictures_do_not_spoil_the_gradient_of_others():
    model = untrained()
    model.add_reader("risk")
    features = model.encode(fake_batch([1, 0, 2]))
    targets = replace(examples(model, 3).targets, risk_N=torch.tensor([0.2, math.nan, 0.7]))
    for parameter in model.risk.parameters():
        parameter.requires_grad_(True)
    head_loss(model, "risk", TrainingSet(features, targets))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.risk.parameters())


def test_losses_are_sums_over_what_is_known_so_that_workers_may_share_a_batch():
    model = untrained()
    for head in ("risk", "forecast", "tags", "embedding"):
        model.add_reader(head)
    data = examples(model)
    data.targets.tags_NK[::3] = -1
    for head in ("risk", "forecast", "tags", "embedding"):
        whole = head_loss(model, head, data)
        parts = [head_loss(model, head, data.rows(torch.arange(k, len(data), 2))) for k in (0, 1)]
        assert float(sum(part[0] for part in parts)) == pytest.approx(float(whole[0]), rel=1e-5)
        assert float(sum(part[1] for part in parts)) == float(whole[1])


def test_losses_are_zero_at_the_truth_and_grow_away_from_it():
    risk = torch.tensor([0.1, 0.5, 0.9])
    assert float(risk_loss(risk.logit(), risk)[0]) == pytest.approx(0, abs=1e-9)
    assert float(risk_loss(risk.logit() + 1, risk)[0]) > 0.5
    future = torch.randn(2, 6, 2)
    paths = future[:, None].repeat(1, 3, 1, 1)
    assert float(forecast_loss(paths, torch.full((2, 3), 1 / 3), future)[0]) == 0
    paths[:, 1:] += 5
    sure = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    assert float(forecast_loss(paths, sure, future)[0]) == 0
    assert float(forecast_loss(paths, sure.flip(1), future)[0]) > 1
    logits = torch.tensor([[9.0, -9.0]])
    right, wrong = torch.tensor([[1, 0]], dtype=torch.int8), torch.tensor([[0, 1]], dtype=torch.int8)
    assert float(tag_loss(logits, right)[0]) < 0.01 < float(tag_loss(logits, wrong)[0])


def test_an_embedding_is_held_near_the_towers():
    model = untrained()
    # Each scene twice, with all tags and with none, so that an embedding and its contrary differ in the drift alone.
    tower = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1).repeat(2, 1)
    tags = torch.tensor([[0], [1]], dtype=torch.int8).repeat_interleave(4, 0).repeat(1, len(TAXONOMY.tags))
    near, far = (float(embedding_loss(e, tower, tags, model.words)[0]) for e in (tower, -tower))
    assert near < far


def test_average_precision_and_f1_leave_the_unknown_out():
    scores, values = np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, -1, 1, 0], np.int8)
    assert average_precision(scores, values) == 1.0
    assert average_precision(scores[::-1], values) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(average_precision(scores, np.array([1, -1, 1, -1], np.int8)))
    limits = choose_thresholds(scores[:, None], values[:, None])
    assert 0.1 < limits[0] <= 0.7
    assert micro_f1(scores[:, None], values[:, None], limits, [0]) == 1.0


def test_retrieval_ranks_only_what_is_known():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])
    ndcg, recall = retrieval_at(scores, np.array([[-1, 1, 0, 1]], np.int8), k=2)
    assert ndcg == pytest.approx(1 / (1 + 1 / math.log2(3))) and recall == 0.5


def test_rank_figures_by_hand():
    assert spearman(np.array([1.0, 2, 3, np.nan]), np.array([10.0, 20, 30, 0])) == pytest.approx(1)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0)))
    values = np.arange(20.0)
    assert top_decile_share(values, values) == 1 and top_decile_share(-values, values) == 0
    assert roc_area(np.array([0.1, 0.4, np.nan, 0.8]), np.array([False, False, True, True])) == 1


def test_forecast_errors_by_hand():
    future = np.stack([np.arange(1.0, 7), np.zeros(6)], -1)[None]
    paths = np.stack([future[0] + [0, 3.0], future[0]])[None]
    errors = forecast_errors(paths, np.array([[0.9, 0.1]]), future)
    assert (errors["ade"][0], errors["min_ade"][0], errors["miss"][0]) == (3.0, 0.0, 0.0)
    assert forecast_errors(paths[:, :1], np.array([[1.0]]), future)["miss"][0] == 1.0


def test_an_interval_holds_its_figure_and_narrows_with_more_rows():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=20), rng.normal(size=2000)
    intervals = [bootstrap(lambda draw, of=of: float(of[draw].mean()), len(of)) for of in (few, many)]
    assert all(i.low < i.value < i.high for i in intervals)
    assert intervals[1].high - intervals[1].low < 0.3 * (intervals[0].high - intervals[0].low)


def test_rows_that_are_alike_do_not_narrow_an_interval_when_groups_are_drawn():
    drives = np.random.default_rng(0).normal(size=20)
    frames, groups = np.repeat(drives, 50), np.repeat(np.arange(20).astype(str), 50).tolist()
    singly, whole, once = (
        bootstrap(lambda draw, of=of: float(of[draw].mean()), len(of), groups=by)
        for of, by in ((frames, None), (frames, groups), (drives, None))
    )
    assert whole.value == singly.value and whole.high - whole.low == pytest.approx(once.high - once.low, rel=0.01)
    assert singly.high - singly.low < 0.3 * (whole.high - whole.low)


def test_an_adapter_of_zero_leaves_the_stream_and_one_of_random_numbers_does_not():
    model = untrained()
    tokens = model.encode(fake_batch([2])).tokens
    zero, drawn = (AdaptedStream(model.stream, CONFIG.stream_dim, 4_000, is_zero) for is_zero in (True, False))
    assert torch.equal(zero(tokens), model.stream(tokens))
    assert not torch.equal(drawn(tokens), model.stream(tokens))
    assert 3_000 < sum(p.numel() for p in zero.adapter.parameters()) <= 4_000


def test_a_drop_is_in_points_and_that_of_an_error_a_share_the_other_way_round():
    before = {"embedding": 0.5, "tags": 0.4, "risk": 0.5, "forecast": 2.0}
    after = {"embedding": 0.5, "tags": 0.6, "risk": 0.4, "forecast": 2.5}
    moved = {"embedding": 0.0, "risk": 0.1, "forecast": 0.5}
    runs = [Run("unfrozen", seed, 1, 1, 0.5, moved, before, after) for seed in (0, 1)]
    result = summarise(runs, StudyConfig("base", "tags", ("unfrozen",), 2, 1), {})
    arm = result["arms"]["unfrozen"]
    assert arm["siblings"]["risk"]["drop"]["mean"] == pytest.approx(0.1)
    assert arm["siblings"]["forecast"]["drop"]["mean"] == pytest.approx(0.25)
    assert arm["sibling_metric_drop"]["mean"] == pytest.approx(0.35 / 3, abs=1e-4)
    assert arm["head_metric_gain"]["mean"] == pytest.approx(0.2)


def replace_config(**changes: float) -> TrainConfig:
    return TrainConfig.parse(TRAIN.model_dump() | changes, "test")
