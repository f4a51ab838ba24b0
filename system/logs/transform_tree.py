"""A tree of named frames, as ROS's tf and Foxglove's FrameTransform build it: each frame has one parent."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from system.logs.mcap_schema import Pose

MAX_DEPTH = 64


class TransformTree:
    """Transforms by child frame, each with the times at which it was sent."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self._sent: dict[str, list[tuple[int, NDArray[np.float64]]]] = {}

    def __contains__(self, frame: str) -> bool:
        return frame in self._parents or frame in self._parents.values()

    def add(self, t_ns: int, pose: Pose) -> None:
        """A frame that changes its parent keeps the first one."""
        if self._parents.setdefault(pose.child, pose.parent) == pose.parent:
            self._sent.setdefault(pose.child, []).append((t_ns, pose.matrix))

    def fixed(self, target: str, source: str) -> NDArray[np.float64] | None:
        """target_from_source [4, 4] between frames of one rigid body, as first sent; None where no way leads there."""
        up_source, up_target = self._ancestry(source), self._ancestry(target)
        common = next((frame for frame in up_source if frame in up_target), None)
        if common is None:
            return None
        matrix = np.eye(4)
        for frame in up_source[: up_source.index(common)]:
            matrix = self._sent[frame][0][1] @ matrix
        for frame in reversed(up_target[: up_target.index(common)]):
            first = self._sent[frame][0][1]
            if not np.isfinite(first).all():
                return None
            matrix = np.linalg.inv(first) @ matrix
        return matrix

    def motion(self, world: str, base: str) -> list[tuple[int, Pose]]:
        """Poses of `base` in `world` at each moment of the step sent most often; empty where no way leads up there."""
        way = self._ancestry(base)
        if world not in way or world == base:
            return []
        steps = [sorted(self._sent[frame], key=lambda sent: sent[0]) for frame in way[: way.index(world)]]
        times = [[t_ns for t_ns, _ in step] for step in steps]
        found = []
        for t_ns in max(times, key=len):
            matrix = np.eye(4)
            for step, sent in zip(steps, times, strict=True):
                matrix = step[max(bisect_right(sent, t_ns) - 1, 0)][1] @ matrix
            found.append((t_ns, Pose(world, base, matrix)))
        return found

    def _ancestry(self, frame: str) -> list[str]:
        """The frame, its parent, and so on; a ring of frames ends where it closes."""
        way = [frame]
        while way[-1] in self._parents and len(way) < MAX_DEPTH and self._parents[way[-1]] not in way:
            way.append(self._parents[way[-1]])
        return way
