"""The ego and the other road users at the same moments: agents keep their own times, the ego is brought to them.

Agents are sampled at 2 to 25 Hz and seldom when the ego is. Between its samples the ego is interpolated, but never over
a gap longer than LONGEST_EGO_GAP_S; before its first and after its last sample it keeps its velocity for at most
EXTRAPOLATED_S. Moments further from what is known of the ego are left out. Metres, seconds, radians.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from system.miner.boxes import Array
from system.records import EgoTrack, Track

LONGEST_EGO_GAP_S = 1.1  # of 1 Hz poses with some jitter
EXTRAPOLATED_S = 0.1
# A track that was seen once stands for this long; so does a gap in a track at most.
LONGEST_STEP_S = 0.5


@dataclass(frozen=True, eq=False)
class Pairs:
    """The ego and one agent at one moment, P pairs.

    ego, other: boxes [P, 5] (x, y, yaw, length, width). ego_velocity, other_velocity: [P, 2] (m/s); the ego's is along
    its heading. dt_s: [P], the time that each pair stands for. agent: [P], index of the agent. t_ns: [P], the moment,
    one of the agent's own.
    """

    ego: Array
    other: Array
    ego_velocity: Array
    other_velocity: Array
    dt_s: Array
    agent: NDArray[np.int64]
    t_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t_ns)

    def at(self, rows: NDArray[np.intp]) -> Pairs:
        """Some of the pairs."""
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(self)))


def pair_up(ego: EgoTrack, agents: tuple[Track, ...]) -> Pairs:
    """Every moment of every agent at which it is known where the ego is, the ego brought to that moment."""
    t_ns = np.concatenate([np.zeros(0, np.int64), *(agent.t_ns for agent in agents)])
    states = np.concatenate([np.zeros((0, 9)), *(agent.states for agent in agents)])
    dt_s = np.concatenate([np.zeros(0), *(steps_s(agent.t_ns) for agent in agents)])
    index = np.repeat(np.arange(len(agents), dtype=np.int64), [len(agent.t_ns) for agent in agents])
    keep = _is_known(ego, t_ns)
    t_ns, states, dt_s, index = t_ns[keep], states[keep], dt_s[keep], index[keep]
    t_ego, t_s = (ego.t_ns - ego.t_ns[0]) / 1e9, (t_ns - ego.t_ns[0]) / 1e9
    x, y, yaw, speed = (
        np.interp(t_s, t_ego, column)
        for column in (ego.states[:, 0], ego.states[:, 1], np.unwrap(ego.states[:, 3]), ego.states[:, 4])
    )
    heading = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    outside_s = t_s - np.clip(t_s, t_ego[0], t_ego[-1])
    centre = np.stack([x, y], -1) + (ego.center_ahead_m + speed * outside_s)[:, None] * heading
    size = np.broadcast_to(np.array(ego.size_m[:2]), (len(t_s), 2))
    return Pairs(
        ego=np.concatenate([centre, yaw[:, None], size], -1),
        other=states[:, [0, 1, 3, 4, 5]],
        ego_velocity=speed[:, None] * heading,
        other_velocity=states[:, 7:9],
        dt_s=dt_s,
        agent=index,
        t_ns=t_ns,
    )


def steps_s(t_ns: NDArray[np.int64]) -> Array:
    """The time that each sample stands for: half the way to either neighbour, [T]."""
    if len(t_ns) < 2:
        return np.full(len(t_ns), LONGEST_STEP_S)
    steps = np.minimum(np.diff(t_ns) / 1e9, LONGEST_STEP_S)
    return 0.5 * (np.r_[steps[0], steps] + np.r_[steps, steps[-1]])


def _is_known(ego: EgoTrack, t_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the ego's place at each moment follows from its samples."""
    last = len(ego.t_ns) - 1
    before = np.clip(np.searchsorted(ego.t_ns, t_ns, "right") - 1, 0, last)
    after = np.clip(np.searchsorted(ego.t_ns, t_ns, "left"), 0, last)
    nearest_ns = np.minimum(np.abs(t_ns - ego.t_ns[before]), np.abs(t_ns - ego.t_ns[after]))
    is_between = (ego.t_ns[before] <= t_ns) & (t_ns <= ego.t_ns[after])
    is_short = ego.t_ns[after] - ego.t_ns[before] <= LONGEST_EGO_GAP_S * 1e9
    return (is_between & is_short) | (nearest_ns <= EXTRAPOLATED_S * 1e9)
