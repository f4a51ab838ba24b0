"""Rules from what logs contain to labels, as data that a user can read and change."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from system.config import FrozenConfig
from system.errors import ConfigError
from system.miner.motion_tags import motion_tags
from system.miner.taxonomy import Taxonomy
from system.records import SceneWindow

DEFAULT_PATH = Path(__file__).with_name("rules.toml")
MAX_FILE_BYTES = 1 << 20
# A word that turns what follows into its contrary, up to the next comma.
_NEGATION = re.compile(r"\b(?:no|not|without|never)\b[^,.;]*")


class Rule(FrozenConfig):
    """One rule; `rules.toml` says what its keys mean."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    origin: Literal["tracks", "tags", "description"] = Field(alias="from")
    sources: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    present: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    absent: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    complete: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if self.origin != "tracks" and not (self.present or self.absent or self.complete):
            raise ValueError(f"rule {self.name!r} decides nothing: give present, absent or complete")
        return self

    def names(self) -> set[str]:
        """Every tag that it names."""
        return {*(self.tags or ()), *self.present, *self.absent, *self.complete}

    def votes(self, window: SceneWindow) -> dict[str, bool]:
        """What it says of a scene: tag -> present or absent; a tag that it does not decide is left out."""
        if self.sources is not None and window.ref.log.source not in self.sources:
            return {}
        if self.origin == "tracks":
            facts = motion_tags(window)
            return {tag: value >= 0.5 for tag, value in facts.items() if self.tags is None or tag in self.tags}
        votes = dict.fromkeys(self.complete, False)
        votes |= {tag: False for tag, words in self.absent.items() if self._finds(words, window)}
        return votes | {tag: True for tag, words in self.present.items() if self._finds(words, window)}

    def _finds(self, words: tuple[str, ...], window: SceneWindow) -> bool:
        if self.origin == "tags":
            return any(word in window.truth_tags for word in words)
        text = _NEGATION.sub("", window.description.lower())
        for phrase in self.ignored:
            text = text.replace(phrase, "")
        return any(re.search(rf"\b{re.escape(word)}", text) for word in words)


class GroupRule(FrozenConfig):
    """How the group of a data set's logs is read from their ids."""

    sources: tuple[str, ...]
    pattern: str

    @model_validator(mode="after")
    def _has_one_bracket(self) -> GroupRule:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r}: {error}") from error
        if groups != 1:
            raise ValueError(f"pattern {self.pattern!r} has {groups} brackets, expected one")
        return self


class LabelRules(FrozenConfig):
    """All rules, in the order of their precedence."""

    rules: tuple[Rule, ...] = Field(min_length=1, max_length=1000)
    groups: tuple[GroupRule, ...] = ()

    def group_of(self, window: SceneWindow) -> str:
        """What a split may not part: `source/name`."""
        log = window.ref.log
        for rule in self.groups:
            if log.source in rule.sources and (found := re.search(rule.pattern, log.log_id)):
                return f"{log.source}/{found[1]}"
        return f"{log.source}/{window.group or log.log_id}"


def load_rules(path: str | Path | None, taxonomy: Taxonomy) -> LabelRules:
    """Read rules; those that Nightminer comes with where `path` is None.

    Raises:
        ConfigError: the file is missing, no TOML, too large, a rule is wrong, or names a tag that the taxonomy lacks.
    """
    file = DEFAULT_PATH if path is None else Path(path)
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"rules {file}: {file.stat().st_size} bytes, expected at most {MAX_FILE_BYTES}")
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"rules {file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"rules {file}: expected TOML in UTF-8: {error}") from error
    rules = LabelRules.parse(values, where=f"rules {file}")
    for rule in rules.rules:
        # The rules that Nightminer comes with serve smaller taxonomies too.
        unknown = rule.names() - set(taxonomy.names)
        if unknown and path is not None:
            names = ", ".join(sorted(unknown))
            raise ConfigError(f"rules {file}: rule {rule.name!r} names tags that the taxonomy lacks: {names}")
    return rules
