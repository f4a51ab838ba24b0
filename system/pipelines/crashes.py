"""Remember which scene a worker was at when it died, so that what kills its reader is met a few times only."""

from __future__ import annotations

from collections import Counter

import ray

# A node that is lost also ends attempts; four in a row at one scene is the scene's doing.
MAX_ATTEMPTS = 4


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class CrashLedger:
    """Counts the attempts at a scene that began and did not end. A native crash leaves no exception, only a count."""

    def __init__(self) -> None:
        self._attempts: Counter[str] = Counter()

    def begin(self, scene_id: str, finished: str | None) -> int:
        """Note that an attempt begins and that the one before it ended; returns how many began at this scene."""
        if finished is not None:
            self._attempts.pop(finished, None)
        self._attempts[scene_id] += 1
        return self._attempts[scene_id]

    def end(self, scene_id: str) -> None:
        self._attempts.pop(scene_id, None)
