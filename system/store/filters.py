"""A typed filter over scenes. The only place where a filter becomes text; a user's string is always a literal."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, model_validator

from system.config import FrozenConfig
from system.errors import ConfigError


class SceneFilter(FrozenConfig):
    """All conditions must hold; one that is None or empty does not count.

    tags: every one of these is present. any_tags: at least one is. without_tags: none is.
    min_risk, max_risk: bounds of the risk in [0, 1]; scenes whose risk is unknown do not pass a bound.
    min_hardness, max_hardness, max_ttc_s: likewise of hardness and of the least time to collision.
    from_ns, to_ns: the scene overlaps [from_ns, to_ns).
    cameras: at least one of these saw it. objects: a road user of each of these kinds (`system.miner.sightings`) was
        annotated or tracked near the ego; reads the bird's-eye column as text, so it is slower than the others.
    """

    tags: tuple[str, ...] = ()
    any_tags: tuple[str, ...] = ()
    without_tags: tuple[str, ...] = ()
    min_risk: float | None = Field(default=None, ge=0, le=1)
    max_risk: float | None = Field(default=None, ge=0, le=1)
    min_hardness: float | None = Field(default=None, ge=0, le=1)
    max_hardness: float | None = Field(default=None, ge=0, le=1)
    max_ttc_s: float | None = Field(default=None, ge=0)
    from_ns: int | None = None
    to_ns: int | None = None
    sources: tuple[str, ...] = ()
    log_ids: tuple[str, ...] = ()
    scene_ids: tuple[str, ...] = ()
    not_scene_ids: tuple[str, ...] = ()
    not_log_ids: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    model_id: str | None = None
    with_embedding: bool = False

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> SceneFilter:
        if self.min_risk is not None and self.max_risk is not None and self.min_risk > self.max_risk:
            raise ValueError(f"min_risk {self.min_risk} is above max_risk {self.max_risk}")
        if self.from_ns is not None and self.to_ns is not None and self.from_ns >= self.to_ns:
            raise ValueError(f"from_ns {self.from_ns} is not before to_ns {self.to_ns}")
        return self

    def check_tags(self, known: tuple[str, ...]) -> None:
        """Refuse a tag that no scene can have.

        Raises:
            ConfigError: naming the tag and the known ones.
        """
        for tag in (*self.tags, *self.any_tags, *self.without_tags):
            if tag not in known:
                raise ConfigError(f"unknown tag {tag!r}; this store knows: {', '.join(known)}")

    def to_sql(self) -> str | None:
        """The filter in Lance's dialect, or None where nothing is asked."""
        parts: list[str] = []
        parts += [f"array_has(tags, {literal(tag)})" for tag in self.tags]
        if self.any_tags:
            parts.append("(" + " OR ".join(f"array_has(tags, {literal(tag)})" for tag in self.any_tags) + ")")
        parts += [f"NOT array_has(tags, {literal(tag)})" for tag in self.without_tags]
        for column, comparison, bound in (
            ("risk", ">=", self.min_risk),
            ("risk", "<=", self.max_risk),
            ("hardness", ">=", self.min_hardness),
            ("hardness", "<=", self.max_hardness),
            ("min_ttc_s", "<=", self.max_ttc_s),
        ):
            if bound is not None:
                parts.append(f"{column} {comparison} {bound!r}")
        if self.from_ns is not None:
            parts.append(f"t_end_ns > {int(self.from_ns)}")
        if self.to_ns is not None:
            parts.append(f"t_start_ns < {int(self.to_ns)}")
        for column, values, word in (
            ("source", self.sources, "IN"),
            ("log_id", self.log_ids, "IN"),
            ("scene_id", self.scene_ids, "IN"),
            ("scene_id", self.not_scene_ids, "NOT IN"),
            ("log_id", self.not_log_ids, "NOT IN"),
        ):
            if values:
                parts.append(f"{column} {word} ({literals(values)})")
        if self.cameras:
            parts.append("(" + " OR ".join(f"array_has(cameras, {literal(c)})" for c in self.cameras) + ")")
        parts += [f"""strpos(birds_eye, {literal(f'["{kind}",')}) > 0""" for kind in self.objects]
        if self.model_id is not None:
            parts.append(f"model_id = {literal(self.model_id)}")
        if self.with_embedding:
            # As mining writes them, and without reading every vector to see that it is there.
            parts.append("num_pictures > 0")
        return " AND ".join(parts) or None


def literal(text: str) -> str:
    """A string literal: quotes doubled, which is all that Lance's dialect asks."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """What stands between the brackets of IN."""
    return ", ".join(map(literal, texts))
