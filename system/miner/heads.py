"""The heads: what each answers without reading the stream, plus what its readers add.

A head starts without readers, so that before training its answer is exactly the tower's zero-shot embedding or tags, or
the kinematic forecast. Each upgrade of a head adds one reader: private to it, its last layer zero, so that the answer
does not change before it learns. No head's parameters reach another head's output.
Legend: N scenes, K = 32 cells, D stream width, Q queries, S numbers of a scene's summary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from system.miner.forecast import NUM_MODES, kinematic_modes
from system.miner.stream import attend
from system.miner.summary import SummaryReader

# Typical sizes of speed (m/s), yaw rate (rad/s) and acceleration (m/s^2).
_EGO_SCALE = (10.0, 0.3, 2.0)
EGO_FACTS = 2 * len(_EGO_SCALE)


def ego_facts(ego_N3: Tensor) -> Tensor:
    """The ego's motion as readers take it, [N, EGO_FACTS]: in typical sizes, and whether each is known."""
    scaled = ego_N3.nan_to_num() / torch.tensor(_EGO_SCALE, device=ego_N3.device, dtype=ego_N3.dtype)
    return torch.cat([scaled.clamp(-5.0, 5.0), ego_N3.isfinite().to(ego_N3.dtype)], -1)


class StreamReader(nn.Module):
    """Attention of Q learned queries over the stream, then a perceptron: [N, K, D] -> [N, Q, outputs].

    The last layer is zero at first, and so is the output; likewise that of `summary`, which is
    added where there is one.
    """

    def __init__(
        self,
        stream_dim: int,
        hidden: int,
        outputs: int,
        num_heads: int,
        queries: int = 1,
        extra: int = 0,
        summary_cells: int = 0,
    ) -> None:
        """extra: width of what is known of the scene besides the stream. summary_cells: width C of what is read of the
        scene's cells beside it. 0 for nothing."""
        super().__init__()
        self.num_heads = num_heads
        self.queries = nn.Parameter(0.02 * torch.randn(queries, stream_dim))
        self.extra_in = nn.Linear(extra, stream_dim) if extra else None
        self.norm_in = nn.LayerNorm(stream_dim)
        self.to_keys_values = nn.Linear(stream_dim, 2 * stream_dim)
        self.from_attention = nn.Linear(stream_dim, stream_dim)
        self.hidden = nn.Sequential(nn.LayerNorm(stream_dim), nn.Linear(stream_dim, hidden), nn.GELU())
        self.out = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.summary = SummaryReader(summary_cells, outputs) if summary_cells else None

    def forward(
        self,
        stream_NKD: Tensor,
        is_read_NK: Tensor,
        extra_NX: Tensor | None = None,
        summary_NS: Tensor | None = None,
    ) -> Tensor:
        queries = self.queries.expand(len(stream_NKD), -1, -1)
        if self.extra_in is not None and extra_NX is not None:
            queries = queries + self.extra_in(extra_NX)[:, None]
        keys, values = self.to_keys_values(self.norm_in(stream_NKD)).chunk(2, -1)
        read = queries + self.from_attention(attend(queries, keys, values, is_read_NK, self.num_heads))
        answer: Tensor = self.out(self.hidden(read))
        if self.summary is None:
            return answer
        if summary_NS is None:
            raise ValueError("this reader needs the scenes' summary")
        return answer + self.summary(summary_NS)[:, None]


class Head(nn.Module):
    """Readers whose outputs are summed.

    num_parameters: what a reader has at most; its hidden width follows from that. summary_cells: as of its readers,
    which have none where the head answers so much that they would be larger.
    """

    queries, extra = 1, 0

    def __init__(
        self, stream_dim: int, outputs: int, num_heads: int, num_parameters: int, summary_cells: int = 0
    ) -> None:
        super().__init__()
        self._reader_sizes = (stream_dim, outputs, num_heads)
        self._summary_cells = summary_cells
        self._num_parameters = num_parameters
        self.outputs = outputs
        self.readers = nn.ModuleList()

    def add_reader(self) -> StreamReader:
        """One more reader, zero at first and on the device of the others; it is returned to be trained."""
        stream_dim, outputs, _ = self._reader_sizes
        of_a_unit = stream_dim + 1 + outputs

        def room(cells: int) -> int:
            return self._num_parameters - sum(p.numel() for p in self._reader(1, cells).parameters())

        cells = self._summary_cells if room(self._summary_cells) >= 0 else 0
        reader = self._reader(1 + max(0, room(cells) // of_a_unit), cells)
        self.readers.append(reader)
        return reader

    def added(
        self,
        stream_NKD: Tensor,
        is_read_NK: Tensor,
        extra_NX: Tensor | None = None,
        summary_NS: Tensor | None = None,
    ) -> Tensor:
        """What the readers add, [N, Q, outputs]; zero without any."""
        total = stream_NKD.new_zeros(len(stream_NKD), self.queries, self.outputs)
        for reader in self.readers:
            total = total + reader(stream_NKD, is_read_NK, extra_NX, summary_NS)
        return total

    def _reader(self, hidden: int, summary_cells: int) -> StreamReader:
        stream_dim, outputs, num_heads = self._reader_sizes
        return StreamReader(stream_dim, hidden, outputs, num_heads, self.queries, self.extra, summary_cells)


class EmbeddingHead(Head):
    """normalise(g + W_o h(stream)), W_o zero at first; g is the tower's mean embedding."""

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, mean_embedding_NE: Tensor) -> Tensor:
        return F.normalize(mean_embedding_NE + self.added(stream_NKD, is_read_NK)[:, 0], dim=-1)


class TagHead(Head):
    """Logits: zero-shot + W_o h(stream) + W_s summary, W_o and W_s zero at first."""

    def forward(
        self,
        stream_NKD: Tensor,
        is_read_NK: Tensor,
        zero_shot_logits_NT: Tensor,
        summary_NS: Tensor | None = None,
    ) -> Tensor:
        return zero_shot_logits_NT + self.added(stream_NKD, is_read_NK, None, summary_NS)[:, 0]


class OwnTagHead(Head):
    """Logits of a user's own tags: W_o h(stream) + W_s summary, 0 before training."""

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, summary_NS: Tensor | None = None) -> Tensor:
        return self.added(stream_NKD, is_read_NK, None, summary_NS)[:, 0]


class RiskHead(Head):
    """Risk in [0, 1) from pictures and the ego's motion, where known; no tracks.

    It has no zero-shot answer, so that a model has it only once trained. With hazard H = softplus(logit),
    1 - exp(-H) is sigmoid(logit): the form of the physics score that it learns.
    """

    extra = EGO_FACTS

    def logits(self, stream_NKD: Tensor, is_read_NK: Tensor, ego_N3: Tensor) -> Tensor:
        return self.added(stream_NKD, is_read_NK, ego_facts(ego_N3))[:, 0, 0]

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, ego_N3: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(stream_NKD, is_read_NK, ego_N3)).clamp_max(1.0 - 2.0**-24)


class ForecastHead(Head):
    """The kinematic modes, each moved and weighed by what the stream shows; unmoved at first."""

    queries, extra = NUM_MODES, EGO_FACTS

    def __init__(self, stream_dim: int, horizon_s: float, num_steps: int, num_heads: int, num_parameters: int) -> None:
        super().__init__(stream_dim, 2 * num_steps + 1, num_heads, num_parameters)
        self.horizon_s, self.num_steps = horizon_s, num_steps

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, ego_N3: Tensor) -> tuple[Tensor, Tensor]:
        """(forecast_NMT2 in m, probability_NM); NaN where the ego's speed is unknown."""
        paths, logits = kinematic_modes(ego_N3, self.horizon_s, self.num_steps)
        residual = self.added(stream_NKD, is_read_NK, ego_facts(ego_N3))
        offsets = residual[..., 1:].unflatten(-1, (self.num_steps, 2))
        return paths + offsets, (logits + residual[..., 0]).softmax(-1)
