"""Rasterise a scene with panda3d's software renderer: which triangle each pixel sees.

Every triangle is drawn in a flat colour that is its number. Place, normal, colour and material of a pixel follow from
the triangle's plane in numpy; `system.demo.shading` and `system.demo.infrared` make pictures of it. No display and no
graphics card are needed, so that the same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.demo.meshes import Mesh, merged
from system.demo.rig import HEIGHT, WIDTH, Camera
from system.errors import ConfigError

NEAR_M, FAR_M = 0.4, 300.0
# Drawn twice as large, and colours averaged, so that edges are smooth.
SUPERSAMPLE = 2


@dataclass(frozen=True, eq=False)
class GBuffer:
    """What each pixel sees; sky has material 0 and distance inf.

    albedo: [H, W, 3] in [0, 1]. material: [H, W] uint8. object_id: [H, W] int32, 0 for the town.
    distance_m: [H, W] from the camera. place: [H, W, 3], normal: [H, W, 3] in the world. ray: [H, W, 3] unit vectors.
    """

    albedo: NDArray[np.float32]
    material: NDArray[np.uint8]
    object_id: NDArray[np.int32]
    distance_m: NDArray[np.float32]
    place: NDArray[np.float32]
    normal: NDArray[np.float32]
    ray: NDArray[np.float32]


class Renderer:
    """Holds a town and draws road users into it. One at a time in a process: panda3d's engine is global."""

    def __init__(self, town: Mesh) -> None:
        try:
            from panda3d import core
        except ImportError as error:
            raise ConfigError("demo logs need panda3d; pip install panda3d") from error
        self._core = core
        for setting in ("load-display p3tinydisplay", "audio-library-name null", "notify-level fatal"):
            core.load_prc_file_data("", setting)
        self._engine = core.GraphicsEngine.get_global_ptr()
        pipe = core.GraphicsPipeSelection.get_global_ptr().make_module_pipe("p3tinydisplay")
        properties = core.FrameBufferProperties()
        properties.set_rgba_bits(8, 8, 8, 0)
        properties.set_depth_bits(24)
        window = core.WindowProperties.size(WIDTH * SUPERSAMPLE, HEIGHT * SUPERSAMPLE)
        refuse = core.GraphicsPipe.BF_refuse_window
        buffer = None if pipe is None else self._engine.make_output(pipe, "ids", 0, properties, window, refuse)
        if buffer is None:
            raise ConfigError("panda3d's software renderer does not start; reinstall panda3d")
        self._texture = core.Texture()
        buffer.add_render_texture(self._texture, core.GraphicsOutput.RTM_copy_ram, core.GraphicsOutput.RTP_color)
        buffer.set_clear_color(core.LColor(0, 0, 0, 1))
        self._root = core.NodePath("root")
        self._lens = core.PerspectiveLens()
        self._lens.set_near_far(NEAR_M, FAR_M)
        self._camera = self._root.attach_new_node(core.Camera("camera", self._lens))
        buffer.make_display_region().set_camera(self._camera)
        self._town = town
        self._root.attach_new_node(self._node(town.triangles, first_id=1))

    def draw(
        self, cameras: Sequence[Camera], ego_pose: tuple[float, float, float], users: Sequence[Mesh]
    ) -> list[GBuffer]:
        """One moment from every camera.

        Args:
            ego_pose: x, y, yaw of the rear axle.
            users: what moves, in world coordinates; number k has object_id k + 1.
        """
        node = None
        everything, owner = self._town, np.zeros(len(self._town.triangles), np.int32)
        if users:
            together = merged(users)
            node = self._root.attach_new_node(self._node(together.triangles, first_id=1 + len(owner)))
            numbers = np.repeat(np.arange(1, len(users) + 1, dtype=np.int32), [len(u.triangles) for u in users])
            everything, owner = merged([self._town, together]), np.concatenate([owner, numbers])
        normals = everything.normals
        planes = np.einsum("fk,fk->f", normals, everything.triangles[:, 0])
        tables = _Tables(
            np.concatenate([np.zeros((1, 3), np.float32), everything.colour]),
            np.concatenate([np.zeros(1, np.uint8), everything.material]),
            np.concatenate([np.zeros(1, np.int32), owner]),
            np.concatenate([np.zeros((1, 3), np.float32), normals]),
            np.concatenate([np.zeros(1, np.float32), planes]),
        )
        buffers = [self._look(camera, ego_pose, tables) for camera in cameras]
        if node is not None:
            node.remove_node()
        return buffers

    def _node(self, triangles: NDArray[np.float32], first_id: int) -> Any:
        core = self._core
        count = 3 * len(triangles)
        data = core.GeomVertexData("mesh", core.GeomVertexFormat.get_v3c4(), core.Geom.UH_static)
        data.unclean_set_num_rows(count)
        rows = np.zeros(count, dtype=[("xyz", "<f4", 3), ("rgba", "u1", 4)])
        rows["xyz"] = triangles.reshape(-1, 3)
        ids = np.repeat(np.arange(first_id, first_id + len(triangles)), 3)
        rows["rgba"] = np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255, np.full(count, 255)], axis=1)
        memoryview(data.modify_array(0)).cast("B")[:] = rows.tobytes()
        primitive = core.GeomTriangles(core.Geom.UH_static)
        primitive.add_next_vertices(count)
        geometry = core.Geom(data)
        geometry.add_primitive(primitive)
        node = core.GeomNode("mesh")
        node.add_geom(geometry)
        return node

    def _look(self, camera: Camera, ego_pose: tuple[float, float, float], tables: _Tables) -> GBuffer:
        x, y, yaw = ego_pose
        ahead, left, up = camera.at_m
        place = (x + np.cos(yaw) * ahead - np.sin(yaw) * left, y + np.sin(yaw) * ahead + np.cos(yaw) * left, up)
        half = np.tan(camera.horizontal_fov_rad / 2)
        self._lens.set_fov(np.degrees(2 * np.arctan(half)), np.degrees(2 * np.arctan(half * HEIGHT / WIDTH)))
        self._camera.set_pos(*map(float, place))
        # panda3d looks along +y at heading 0.
        self._camera.set_hpr(float(np.degrees(yaw + camera.yaw_rad)) - 90.0, 0.0, 0.0)
        self._engine.render_frame()
        raw = np.frombuffer(self._texture.get_ram_image_as("RGB"), dtype=np.uint8)
        rgb = raw.reshape(HEIGHT * SUPERSAMPLE, WIDTH * SUPERSAMPLE, 3)[::-1].astype(np.int32)
        ids = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        samples = [ids[a::SUPERSAMPLE, b::SUPERSAMPLE] for a in range(SUPERSAMPLE) for b in range(SUPERSAMPLE)]
        albedo = np.stack([np.take(tables.colour, part, axis=0) for part in samples]).mean(0)
        # One of the four samples stands for the pixel; the corner nearest to its middle.
        chosen = ids[SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE]
        ray = _rays(camera, yaw)
        normal = tables.normal[chosen]
        facing = normal[..., 0] * ray[..., 0] + normal[..., 1] * ray[..., 1] + normal[..., 2] * ray[..., 2]
        offset = tables.plane[chosen] - normal @ np.array(place, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = offset / facing
        distance = np.where((chosen > 0) & np.isfinite(distance), np.clip(distance, NEAR_M, FAR_M), np.inf)
        reach = np.where(np.isfinite(distance), distance, FAR_M).astype(np.float32)
        return GBuffer(
            albedo=albedo,
            material=tables.material[chosen],
            object_id=tables.owner[chosen],
            distance_m=distance.astype(np.float32),
            place=np.array(place, np.float32) + ray * reach[..., None],
            normal=normal,
            ray=ray,
        )


@dataclass(frozen=True, eq=False)
class _Tables:
    """What each triangle is, by its number; number 0 is the sky."""

    colour: NDArray[np.float32]
    material: NDArray[np.uint8]
    owner: NDArray[np.int32]
    normal: NDArray[np.float32]
    plane: NDArray[np.float32]


def _rays(camera: Camera, yaw: float) -> NDArray[np.float32]:
    """Unit vectors of the pixels in the world, [H, W, 3]."""
    focal = camera.focal_px
    right = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / focal
    down = (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / focal
    heading = yaw + camera.yaw_rad
    forward = np.array([np.cos(heading), np.sin(heading), 0.0])
    rightward = np.array([np.sin(heading), -np.cos(heading), 0.0])
    rays = forward + right[None, :, None] * rightward - down[:, None, None] * np.array([0.0, 0.0, 1.0])
    return (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).astype(np.float32)
