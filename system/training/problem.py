"""How a training worker tells its driver, in its own words, what it could not go on with."""

from __future__ import annotations

import json
from pathlib import Path

from system.errors import ConfigError, DataError, ModelError, NightminerError

_NAME = "problem.json"


def note_problem(folder: Path, error: NightminerError) -> None:
    """Write an error down in a run's folder, which driver and workers see."""
    code = error.code if isinstance(error, DataError) else None
    told = error.message if isinstance(error, DataError) else str(error)
    row = {"code": code, "message": told, "is_config": isinstance(error, ConfigError)}
    (folder / _NAME).write_text(json.dumps(row), "utf-8")


def has_problem(folder: Path) -> bool:
    """Whether a worker could not go on. Ray tries again whatever failed, here to the same end."""
    return (folder / _NAME).is_file()


def forget_problem(folder: Path) -> None:
    """Before a new attempt."""
    (folder / _NAME).unlink(missing_ok=True)


def problem_of(folder: Path, error: BaseException | None = None) -> NightminerError:
    """What a worker wrote down; where none did, the words of Ray's error without the frames around them."""
    if has_problem(folder):
        found = json.loads((folder / _NAME).read_text("utf-8"))
        if found["code"]:
            return DataError(found["code"], found["message"])
        return ConfigError(found["message"]) if found["is_config"] else ModelError(found["message"])
    lines = [line for line in str(error).splitlines() if "Error: " in line]
    return ModelError(lines[-1].split("Error: ", 1)[1] if lines else str(error))
