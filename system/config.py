"""The base of every configuration: frozen, strict pydantic models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from system.errors import ConfigError

# Characters of a wrong value that an error repeats.
_SHOWN = 200


class FrozenConfig(BaseModel):
    """A configuration that cannot change after it was made and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from untyped values.

        Args:
            values: key to value, as read from a file or a command line.
            where: what the values came from, named in the error.
        Raises:
            ConfigError: one line for each wrong value, with its key and what was expected.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc'])) or '(all)'}: {e['msg']}{_got(e)}" for e in error.errors()]
            raise ConfigError(f"{where}: " + "; ".join(lines)) from error


def _got(error: Mapping[str, Any]) -> str:
    """The wrong value, as far as it helps; of a missing one pydantic names everything around it."""
    return "" if error["type"] == "missing" else f" (got {repr(error['input'])[:_SHOWN]})"
