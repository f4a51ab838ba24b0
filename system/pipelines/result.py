"""What a mining run did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class StageSeconds:
    """Busy seconds of each stage, summed over its workers.

    first_forward, stream: wall clock from the start of the stream, model loading included, to the model's first call
        and to the last commit.
    """

    plan: float = 0.0
    read: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    commit: float = 0.0
    rank: float = 0.0
    stream: float = 0.0
    first_forward: float = float("inf")


@dataclass
class MiningResult:
    """Counts of scenes. found = committed + already + quarantined + remaining; remaining is 0 unless it was stopped
    or scenes, or logs that are to be listed, are `unread`: the storage did not answer for them, and the next run tries
    them again.

    stalled: it was stopped after no batch had come for two minutes; Ray may still be waiting for nodes or actors.
    deferred: scenes beyond `limit`, not in `found`. images: pictures of the committed scenes.
    problem: what does not add up, or that too many scenes were bad; None if all is well.
    driver_peak_mb: most memory that the driver ever held.
    """

    run_id: str
    model_id: str
    found: int = 0
    committed: int = 0
    already: int = 0
    quarantined: int = 0
    remaining: int = 0
    unread: int = 0
    deferred: int = 0
    images: int = 0
    seconds: float = 0.0
    table_version: int | None = None
    stopped: bool = False
    stalled: bool = False
    report: str | None = None
    problem: str | None = None
    driver_peak_mb: int = 0
    stages: StageSeconds = field(default_factory=StageSeconds)

    @property
    def unaccounted(self) -> int:
        """Scenes that were found and are nowhere; 0 unless something is broken."""
        return self.found - self.committed - self.already - self.quarantined - self.remaining

    def as_json(self) -> dict[str, Any]:
        """The figures that a job prints."""
        values = asdict(self)
        values["seconds"] = round(self.seconds, 3)
        stages = values["stages"]
        if stages["first_forward"] == float("inf"):
            stages["first_forward"] = 0.0  # nothing was to be mined
        values["stages"] = {name: round(seconds, 3) for name, seconds in stages.items()}
        return values
