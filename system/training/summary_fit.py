"""The linear part of a reader, fitted to its end before the rest learns: a ridge, so that a few hundred scenes suffice.

A loss that is convex in its weights needs no epochs, no rate and no early end. It is fitted on all training scenes at
once, by every worker alike. Legend: N scenes, S numbers of a scene's summary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from system.errors import ModelError
from system.miner.heads import StreamReader
from system.miner.model import SceneMiner
from system.miner.summary import SummaryReader, summary
from system.training.losses import known_of, tag_loss, tags_of
from system.training.targets import TrainingSet

# Of the squared weights of one tag, beside its mean loss; chosen by leaving out groups of training scenes, where
# anything from 0.01 to 0.1 does as well.
_RIDGE = 0.03
_MOST_STEPS = 100


def fit_summary(miner: SceneMiner, head: str, data: TrainingSet) -> dict[str, Tensor]:
    """Fit the summary of a head's newest reader, whose other part must still add nothing; nothing where it has none.

    Returns:
        What was set, by its name in the model: weights, and the mean and spread of the inputs.
    Raises:
        ModelError: the fit gave no numbers.
    """
    reader: StreamReader = miner.heads[head].readers[-1]  # type: ignore[assignment]
    if reader.summary is None:
        return {}
    data = data.to(reader.summary.centre.device)
    known = known_of(head, data).nonzero().flatten()
    if len(known):
        _fit(miner, head, reader.summary, data.rows(known))
    owned = {id(tensor) for tensor in reader.summary.state_dict(keep_vars=True).values()}
    return {name: tensor for name, tensor in miner.state_dict(keep_vars=True).items() if id(tensor) in owned}


def _fit(miner: SceneMiner, head: str, part: SummaryReader, data: TrainingSet) -> None:
    given_NS = summary(data.features.top_cell_NC, data.features.ego_N3)
    part.standardise(given_NS)
    inputs_NS = part.inputs(given_NS)
    with torch.no_grad():
        stream = data.with_stream(lambda features: miner.stream(features.tokens)).stream_NKD
        assert stream is not None
        before = miner.tag_logits(head, stream, data.features)
    if not (before.isfinite().all() and inputs_NS.isfinite().all()):
        raise ModelError(f"head {head!r}: the features of a training scene are NaN or infinite")
    weight, bias = part.out.weight, part.out.bias
    learns = [parameter.requires_grad for parameter in (weight, bias)]
    weight.requires_grad_(True)
    bias.requires_grad_(True)
    labels_NK = tags_of(head, data.targets)
    # Each tag is weighed by its known labels in the mean loss, and so is its ridge: its fit does not depend on others.
    ridge_K = _RIDGE * (labels_NK >= 0).sum(0) / (labels_NK >= 0).sum()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, count = tag_loss(before + part.out(inputs_NS), labels_NK)
        total = loss / count + (ridge_K * weight.square().sum(1)).sum()
        total.backward()
        return total

    optimizer.step(closure)
    for parameter, learnt in zip((weight, bias), learns, strict=True):
        parameter.grad = None
        parameter.requires_grad_(learnt)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ModelError(f"head {head!r}: the linear part of its reader became no number")
