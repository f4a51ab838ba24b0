"""The arms of a FreqKD study, as they are asked for on a command line, and the drift that is given to their pairs.

    none                              no distillation: the untouched backbone
    reference                         a recipe of `system.freqkd.losses.RECIPES`
    reference@cutoff=0.25@rank=16     the same with other values
    registered@blocks=6+9@merge=1
    registered@first=0.3              of a CNN: the projections learn alone in this share of the steps

Legend: N pairs, H x W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import ConfigError
from system.freqkd.distiller import DistillConfig
from system.freqkd.losses import RECIPES, LossConfig

NO_KD = "none"


@dataclass(frozen=True)
class Arm:
    """name: as it stands in tables and file names. loss: None for no distillation.

    settings: what differs in DistillConfig from the study's own; `merge_factor` is that of the student that is judged.
    """

    name: str
    loss: LossConfig | None
    settings: dict[str, Any] = field(default_factory=dict)

    def config(self, of_study: DistillConfig, seed: int) -> DistillConfig:
        """How this arm is trained."""
        assert self.loss is not None
        values = of_study.model_dump() | self.settings | {"seed": seed, "loss": self.loss}
        return DistillConfig.parse(values, f"arm {self.name}")

    @property
    def is_registered(self) -> bool:
        """Whether each pair is registered before it is matched."""
        return self.loss is not None and self.loss.register_pairs

    @property
    def trained_as(self) -> str:
        """Arms of the same training that are merged with different factors share it."""
        return re.sub(r"@merge=[^@]*", "", self.name)


def parse_arms(texts: Sequence[str]) -> tuple[Arm, ...]:
    """Each text holds arms with commas between them.

    Raises:
        ConfigError: none, one twice, an unknown recipe or option, or a value out of range.
    """
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    arms = tuple(parse_arm(name) for name in names)
    if not arms:
        raise ConfigError(f"--arms: expected some of {', '.join(RECIPES)}")
    seen = [arm.name for arm in arms]
    if twice := sorted({name for name in seen if seen.count(name) > 1}):
        raise ConfigError(f"--arms: {twice[0]} stands there twice")
    return arms


def parse_arm(text: str, option: str = "--arms") -> Arm:
    """One arm; its options are put into one order, so that the same arm has the same name.

    Args:
        option: that it was given by, for messages.
    Raises:
        ConfigError: an unknown recipe or option, or a value out of range.
    """
    recipe, *rest = text.split("@")
    if recipe not in RECIPES:
        raise ConfigError(f"{option} {text}: no recipe {recipe!r}; expected one of {', '.join(RECIPES)}")
    loss = RECIPES[recipe]
    if loss is None and rest:
        raise ConfigError(f"{option} {text}: {recipe} is not trained and takes no options")
    options: dict[str, Any] = {}
    for item in rest:
        key, equals, value = item.partition("=")
        if key not in _PARSERS or not equals or key in options:
            raise ConfigError(f"{option} {text}: {item!r}: expected each of {', '.join(_PARSERS)} once, as key=value")
        try:
            options[key] = _PARSERS[key](value)
        except ValueError as error:
            raise ConfigError(f"{option} {text}: {key}={value}: {error}") from error
    if "cutoff" in options:
        assert loss is not None
        try:
            loss = loss.with_cutoff(options["cutoff"])
        except ConfigError as error:
            raise ConfigError(f"{option} {text}: {error}") from error
    settings: dict[str, Any] = {}
    if "rank" in options:
        # alpha / rank stays 1, as in the recipe; a full matrix has no alpha.
        settings |= {"rank": options["rank"], "alpha": float(options["rank"] or 1)}
    if "blocks" in options:
        settings["blocks"] = options["blocks"]
    if "first" in options:
        settings["projections_first"] = options["first"]
    if "merge" in options:
        settings["merge_factor"] = options["merge"]
    name = "@".join([recipe, *(f"{key}={_written(options[key])}" for key in _PARSERS if key in options)])
    return Arm(name, loss, settings)


def compared_arm(ours: str | None, arms: Sequence[Arm]) -> str:
    """The name of the arm that is compared with every other.

    Args:
        ours: as it was asked for; None for `registered`, where it is there.
    Raises:
        ConfigError: it is not among those that run.
    """
    names = [arm.name for arm in arms]
    if ours is None:
        return "registered"
    if (name := parse_arm(ours, "--ours").name) not in names:
        raise ConfigError(f"--ours {ours}: expected one of --arms, {', '.join(names)}")
    return name


def refuse_first(arms: Sequence[Arm]) -> None:
    """Raises ConfigError: an arm lets projections learn first, of a student that has none."""
    if unfit := [arm.name for arm in arms if "projections_first" in arm.settings]:
        raise ConfigError(f"--arms {unfit[0]}: first= is of a CNN's projections; name one by --student")


def refuse_drifts(drifts: Sequence[int], height: int, width: int) -> None:
    """Raises ConfigError: no drift, one twice, or one beyond half of the shorter side of the pairs' pictures."""
    if len(set(drifts)) < len(drifts) or not drifts:
        raise ConfigError(f"--drifts {','.join(map(str, drifts))}: expected at least one, each once")
    furthest = min(height, width) // 2
    for drift in drifts:
        if not 0 <= drift <= furthest:
            raise ConfigError(f"--drifts {drift}: expected 0..{furthest} pixels, half of the shorter side")


def drift_shifts(drift_px: int, seed: int, count: int) -> NDArray[np.int64]:
    """How far the infrared picture of each training pair is moved, [N, 2] as (down, right) in whole pixels.

    Uniform in the square of -drift..drift in both directions. A pair's direction is the same at every drift of a seed,
    so that drifts differ by nothing but length.
    """
    return np.round(np.random.default_rng(seed).uniform(-1, 1, (count, 2)) * drift_px).astype(np.int64)


def drifted(pictures_NHWC: NDArray[np.uint8], shifts_N2: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Each picture moved by its own shift; what enters is the replicated edge."""
    height, width = pictures_NHWC.shape[1:3]
    moved = np.empty_like(pictures_NHWC)
    for n, (down, right) in enumerate(shifts_N2):
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        moved[n] = pictures_NHWC[n][rows][:, columns]
    return moved


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not low < value <= high:
            raise ValueError(f"expected a number in ({low:g}, {high:g}]")
        return value

    return parse


def _rank(text: str) -> int:
    if text == "full":
        return 0
    value = int(text)
    if value < 1:
        raise ValueError("expected a whole number from 1, or full")
    return value


def _blocks(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+"))


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    return f"{value:g}" if value else "full"


_PARSERS: dict[str, Callable[[str], Any]] = {
    "cutoff": _number(0, 1),
    "rank": _rank,
    "blocks": _blocks,
    "first": _number(0, 0.9),
    "merge": _number(0, 4),
}
