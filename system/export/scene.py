"""What a writer gets of a scene, what it answers, and what it must be able to do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from system.errors import DataError
from system.logs.picture_files import PictureFile
from system.records import Frame, SceneWindow


@dataclass(frozen=True)
class ExportFault:
    """Something that could not be taken along. level: "scene", which is then left out, or "picture".

    message: which file, what was expected, what is there.
    """

    level: str
    scene_id: str
    uri: str
    code: str
    message: str

    def to_row(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class ScenePicture:
    """A picture of the scene and where and when it was taken."""

    frame: Frame
    file: PictureFile

    @property
    def stem(self) -> str:
        """A file name without its suffix, of characters that every file system and tar reader takes.

        A camera's name that has others gets a hash, which keeps cameras apart whose names are written alike.
        """
        camera = self.frame.camera
        name = safe_name(camera)
        if name != camera:
            name += "-" + hashlib.sha256(camera.encode()).hexdigest()[:8]
        return f"{name}_{self.frame.t_ns}"


@dataclass(frozen=True, eq=False)
class SceneExport:
    """A scene as it leaves.

    Attributes:
        row: its row of the table `scenes`, with `tag_probabilities` by name.
        window: frames, ego and agents, read again from the log.
        pictures: of those frames that could be read; empty for writers that do not ask for pictures.
    """

    row: Mapping[str, Any]
    window: SceneWindow
    pictures: tuple[ScenePicture, ...]

    @property
    def scene_id(self) -> str:
        return self.window.scene_id


@dataclass(frozen=True)
class Added:
    """What a writer made of a scene: counts, and pictures that it missed itself."""

    pictures: int = 0
    boxes: int = 0
    faults: tuple[ExportFault, ...] = ()


class SceneWriter(Protocol):
    """Writes scenes into one folder, as they come: those of a log follow each other, in order of time.

    Memory must not grow with the number of scenes.
    """

    # Whether `SceneExport.pictures` are read for it, and whether a scene without any can be written.
    reads_pictures: bool
    needs_pictures: bool

    def add(self, scene: SceneExport) -> Added:
        """Write one scene.

        Raises:
            DataError: the format cannot hold this scene; nothing of it was written.
        """
        ...

    def close(self) -> None:
        """Finish all files."""
        ...

    def abandon(self) -> None:
        """Close all files as they are: the export has failed, and the folder will be removed."""
        ...


def scene_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the store knows of a scene, as JSON takes it: of every format the same names."""
    names = (
        "scene_id", "source", "log_id", "t_start_ns", "t_end_ns", "description", "tags", "truth_tags", "risk",
        "risk_source", "physics_risk", "min_ttc_s", "ambiguity", "rarity", "hardness", "flags", "tag_probabilities",
    )  # fmt: skip
    return {name: None if isinstance(row[name], float) and row[name] != row[name] else row[name] for name in names}


def safe_name(text: str) -> str:
    """A name without separators, dots and spaces."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "_"


NO_PICTURES = "no_pictures"


def no_pictures(scene_id: str, uri: str, mined: int) -> DataError:
    """Of a scene that the writer needs pictures of. mined: how many it had when it was mined."""
    if mined:
        return DataError("pictures_gone", f"{uri}: scene {scene_id}: expected the {mined} pictures mined, found none")
    return DataError(NO_PICTURES, f"{uri}: scene {scene_id} never had pictures, and this format is one of pictures")
