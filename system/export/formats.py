"""The formats by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from system.errors import ConfigError
from system.export.coco import CocoWriter
from system.export.fiftyone import FiftyOneWriter
from system.export.mcap_clip import McapWriter
from system.export.nuscenes_root import NuScenesRootWriter
from system.export.nuscenes_tokens import NuScenesTokensWriter
from system.export.parquet import ParquetWriter
from system.export.scene import SceneWriter
from system.export.webdataset import WebDatasetWriter

FORMATS: dict[str, Callable[[Path, Mapping[str, Any]], SceneWriter]] = {
    "coco": CocoWriter,
    "fiftyone": FiftyOneWriter,
    "nuscenes-tokens": NuScenesTokensWriter,
    "nuscenes": NuScenesRootWriter,
    "mcap": McapWriter,
    "parquet": ParquetWriter,
    "webdataset": WebDatasetWriter,
}


def writer_named(name: str) -> Callable[[Path, Mapping[str, Any]], SceneWriter]:
    """Makes a writer from its folder and the provenance.

    Raises:
        ConfigError: there is none; names those there are.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format {name!r} is unknown; expected one of: {', '.join(FORMATS)}")
    return FORMATS[name]
