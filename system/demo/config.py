"""What a demo scene is made from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from system.config import FrozenConfig

Hazard = Literal["none", "hard_braking_lead", "cut_in", "jaywalker", "red_light_runner"]
Weather = Literal["clear", "rain", "fog"]
Light = Literal["day", "dusk", "night"]

HAZARDS: tuple[Hazard, ...] = ("hard_braking_lead", "cut_in", "jaywalker", "red_light_runner")
# (light, weather) of scene k, in turn; of every five scenes two are plain days.
CONDITIONS: tuple[tuple[Light, Weather], ...] = (
    ("day", "clear"),
    ("night", "clear"),
    ("day", "rain"),
    ("dusk", "clear"),
    ("day", "fog"),
    ("day", "clear"),
    ("night", "rain"),
)
KEYFRAME_HZ = 2
STEP_S = 0.1


class SceneConfig(FrozenConfig):
    """One scene. town_seed: of the network and its buildings; seed: of the traffic and everything else."""

    name: str
    split: Literal["train", "test"]
    town_seed: int = Field(ge=0)
    seed: int = Field(ge=0)
    seconds: float = Field(gt=0, le=60)
    light: Light
    weather: Weather
    hazard: Hazard


def default_scenes(count: int, seconds: float, seed: int) -> list[SceneConfig]:
    """Scenes in every light and weather, every second one with a staged hazard, every fourth in a test town."""
    scenes = []
    for k in range(count):
        split: Literal["train", "test"] = "test" if k % 4 == 3 else "train"
        light, weather = CONDITIONS[k % len(CONDITIONS)]
        # Towns of the two splits have other seeds, so that no street is in both.
        town_seed = 1000 * seed + (k // 4) % 3 + (500 if split == "test" else 0)
        # Shifted every four scenes, so that every second test scene has a hazard too, and not always the same.
        hazard = HAZARDS[(k + k // 8) % len(HAZARDS)] if (k + k // 4) % 2 == 0 else "none"
        scenes.append(
            SceneConfig(
                name=f"demo-{seed}-{k:03d}",
                split=split,
                town_seed=town_seed,
                seed=1000 * seed + k,
                seconds=seconds,
                light=light,
                weather=weather,
                hazard=hazard,
            )
        )
    return scenes
