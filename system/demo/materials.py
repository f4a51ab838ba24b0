"""What surfaces are made of: how they look and how warm they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Material:
    """emissive: share of its colour that it sends out. day_c, night_c: degrees Celsius. gloss: mirrored sky."""

    number: int
    emissive: float = 0.0
    day_c: float = 20.0
    night_c: float = 8.0
    gloss: float = 0.0


SKY = Material(0)
ROAD = Material(1, day_c=34, night_c=13, gloss=0.05)
MARKING = Material(2, day_c=31, night_c=12)
PAVEMENT = Material(3, day_c=31, night_c=12)
GRASS = Material(4, day_c=22, night_c=6)
FACADE = Material(5, day_c=26, night_c=12)
ROOF = Material(6, day_c=32, night_c=5)
TRUNK = Material(7, day_c=20, night_c=8)
LEAVES = Material(8, day_c=19, night_c=8)
METAL = Material(9, day_c=24, night_c=7)
CAR_PAINT = Material(10, day_c=27, night_c=8, gloss=0.25)
# The bonnet of a car that drives is warm, its windows mirror the cold sky, its tyres and exhaust are hot.
BONNET = Material(11, day_c=38, night_c=24, gloss=0.25)
WINDOW = Material(12, day_c=15, night_c=2, gloss=0.5)
TYRE = Material(13, day_c=44, night_c=33)
EXHAUST = Material(14, day_c=62, night_c=55)
HEADLAMP = Material(15, emissive=1.0, day_c=30, night_c=34)
TAIL_LAMP = Material(16, emissive=0.45, day_c=24, night_c=16)
BRAKE_LAMP = Material(17, emissive=1.0, day_c=26, night_c=18)
SKIN = Material(18, day_c=34, night_c=32)
CLOTHES = Material(19, day_c=29, night_c=23)
STREET_LAMP = Material(20, emissive=1.0, day_c=24, night_c=45)
SIGNAL_LIT = Material(21, emissive=1.0, day_c=27, night_c=22)
SIGNAL_DARK = Material(22, day_c=24, night_c=9)
CONE = Material(23, day_c=25, night_c=9)
CARGO = Material(24, day_c=25, night_c=8)

ALL = (
    SKY, ROAD, MARKING, PAVEMENT, GRASS, FACADE, ROOF, TRUNK, LEAVES, METAL, CAR_PAINT, BONNET, WINDOW, TYRE, EXHAUST,
    HEADLAMP, TAIL_LAMP, BRAKE_LAMP, SKIN, CLOTHES, STREET_LAMP, SIGNAL_LIT, SIGNAL_DARK, CONE, CARGO,
)  # fmt: skip
EMISSIVE = np.array([m.emissive for m in ALL], np.float32)
GLOSS = np.array([m.gloss for m in ALL], np.float32)
DAY_C = np.array([m.day_c for m in ALL], np.float32)
NIGHT_C = np.array([m.night_c for m in ALL], np.float32)
