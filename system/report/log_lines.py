"""Lines of a job's log on stderr: words for people, or one JSON object each where NIGHTMINER_LOGS is `json`."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from system.errors import ConfigError

FORMAT = "NIGHTMINER_LOGS"
# Modules log what concerns one log or scene to a child of this logger, with `extra={"ids": {"log_id": ...}}`.
LOGGER = logging.getLogger("nightminer.jobs")

# A job is a process, so that its ids are the process's.
_bound: dict[str, str] = {}


def bind_log_ids(**ids: str) -> None:
    """Every JSON line from now on carries these, e.g. run_id."""
    _bound.update(ids)


def forget_log_ids() -> None:
    """None any more: another job begins in this process."""
    _bound.clear()


def wants_json() -> bool:
    """Whether the environment asks for JSON.

    Raises:
        ConfigError: it asks for something else than `text` or `json`.
    """
    value = os.environ.get(FORMAT, "") or "text"
    if value not in ("text", "json"):
        raise ConfigError(f"{FORMAT}={value}: expected text or json")
    return value == "json"


def json_line(message: str, level: str = "info", **fields: Any) -> str:
    """One object: t (UTC), level, message, the ids that were bound, and what the line itself tells."""
    t = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"t": t, "level": level, "message": message, **_bound, **fields}, default=str)


class LineHandler(logging.Handler):
    """Hands records of `LOGGER` to whoever writes the lines of a job, with their level and ids."""

    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage(), record.levelname.lower(), **getattr(record, "ids", {}))
