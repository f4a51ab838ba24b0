"""How far a training is, told by its workers through a file and shown by its driver."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from system.report.console import ConsoleProgress

_NAME = "position.json"
_LOOK_EVERY_S = 1.0


def note_position(folder: Path, steps: int, skipped: int) -> None:
    """Steps done, and examples that could not be read so far."""
    draft = folder / f"{_NAME}.part"
    draft.write_text(json.dumps({"steps": steps, "skipped": skipped}), "utf-8")
    os.replace(draft, folder / _NAME)


def position_of(folder: Path) -> tuple[int, int]:
    """(steps done, examples that could not be read); (0, 0) where nothing is known."""
    try:
        found = json.loads((folder / _NAME).read_text("utf-8"))
        return int(found["steps"]), int(found["skipped"])
    except (OSError, ValueError, KeyError):
        return 0, 0


@contextmanager
def shown(folder: Path, batch_size: int, examples: str, progress: ConsoleProgress) -> Iterator[None]:
    """Show how far the workers are while they run. examples: what they learn from, in the plural."""
    ended = threading.Event()

    def look() -> None:
        shown_steps, shown_bad = position_of(folder)
        progress.advanced(shown_steps, 0, 0)
        while not ended.wait(_LOOK_EVERY_S):
            steps, bad = position_of(folder)
            if steps > shown_steps:
                progress.advanced(steps - shown_steps, 0, (steps - shown_steps) * batch_size)
                if bad > shown_bad:
                    progress.note(f"{bad} {examples} could not be read and are skipped")
                shown_steps, shown_bad = steps, bad

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
