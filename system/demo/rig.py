"""The cameras of the demo car: six around it and one infrared in the place of the front one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 640, 360
INFRARED = "CAM_IR_FRONT"


@dataclass(frozen=True)
class Camera:
    """yaw_rad: of the optical axis, counter-clockwise from forward. at_m: in the ego frame (rear axle, ground)."""

    channel: str
    yaw_rad: float
    at_m: tuple[float, float, float]
    horizontal_fov_rad: float

    @property
    def focal_px(self) -> float:
        return WIDTH / 2 / np.tan(self.horizontal_fov_rad / 2)

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        return np.array([[self.focal_px, 0, WIDTH / 2], [0, self.focal_px, HEIGHT / 2], [0, 0, 1]])

    @property
    def rotation_wxyz(self) -> tuple[float, float, float, float]:
        """Ego from camera (x right, y down, z forward): first the axes, then the yaw."""
        axes = np.array([0.5, -0.5, 0.5, -0.5])
        turn = np.array([np.cos(self.yaw_rad / 2), 0, 0, np.sin(self.yaw_rad / 2)])
        w0, x0, y0, z0 = turn
        w1, x1, y1, z1 = axes
        return (
            float(w0 * w1 - x0 * x1 - y0 * y1 - z0 * z1),
            float(w0 * x1 + x0 * w1 + y0 * z1 - z0 * y1),
            float(w0 * y1 - x0 * z1 + y0 * w1 + z0 * x1),
            float(w0 * z1 + x0 * y1 - y0 * x1 + z0 * w1),
        )


def _camera(channel: str, degrees: float, at_m: tuple[float, float, float], fov: float = 70.0) -> Camera:
    return Camera(channel, float(np.radians(degrees)), at_m, float(np.radians(fov)))


RIG = (
    _camera("CAM_FRONT", 0, (1.70, 0.0, 1.51)),
    _camera("CAM_FRONT_LEFT", 55, (1.55, 0.49, 1.50)),
    _camera("CAM_FRONT_RIGHT", -55, (1.55, -0.49, 1.50)),
    _camera("CAM_BACK", 180, (0.03, 0.0, 1.56), 100.0),
    _camera("CAM_BACK_LEFT", 110, (1.04, 0.48, 1.56)),
    _camera("CAM_BACK_RIGHT", -110, (1.04, -0.48, 1.56)),
    _camera(INFRARED, 0, (1.70, 0.0, 1.51)),
)
