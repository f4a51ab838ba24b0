"""Search a store by text, picture or scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.backbones.loading import load_tower
from system.backbones.preprocess import resize_for_tower
from system.backbones.runtime import choose_runtime
from system.errors import ConfigError, DataError
from system.logs.pixels import PictureLimits, read_window_pictures
from system.pipelines.explained import explained
from system.records import Frame
from system.store.detections import Detected, among_detected, choose_detector, counts_of
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.search import SearchConfig, embedding_of, search_scenes, searched_model, tag_names


def search_store(
    store: str,
    where: SceneFilter,
    config: SearchConfig,
    text: str | None = None,
    image: str | None = None,
    scene: str | None = None,
    version: str | None = None,
    detected: Sequence[Detected] = (),
    detector: str | None = None,
) -> list[dict[str, Any]]:
    """The scenes most like a text, a picture or a scene, or without any of them the hardest, under a filter.

    Args:
        image: path or URI of a picture. scene: a scene id, which is not among its own results.
        version: tag of an earlier table version, "run-<run id>" or "night-<date>"; the rows are those of its model.
        detected: what a detector must have found in one picture of the scene, each of them. detector: its id or the
            beginning of it; the newest that looked at the store, if not given.
    Returns:
        {scene_id, log_id, score, risk, tags, hardness, why, ...}, best first; with `detected`, `detector_id` and
        `detections` too: the most objects of each class in one picture.
    Raises:
        ConfigError: more than one query, an unknown tag, scene, version, detector or class. DataError: an unreadable
            picture.
    """
    if sum(query is not None for query in (text, image, scene)) > 1:
        raise ConfigError("name one of --text, --image and --scene, not several")
    location = StoreLocation.parse(store)
    where.check_tags(tag_names(location))
    model = searched_model(location, version)
    where = where.model_copy(update={"model_id": where.model_id or model["model_id"]})
    narrowed = among_detected(location, where, detected, detector)
    if narrowed is None:
        return []
    where = narrowed
    if scene is not None:
        where = where.model_copy(update={"not_scene_ids": (*where.not_scene_ids, scene)})
        query = embedding_of(location, scene, model["model_id"], version)
    elif text is not None or image is not None:
        query = _embed(model["tower"], text, image)
    else:
        query = None
    rows = search_scenes(location, query, where, config, version)
    told = [explained(row, model["tag_names"]) for row in rows]
    if detected:
        identity = choose_detector(location, detector).detector_id
        least = min(each.min_score for each in detected)
        counts = counts_of(location, [row["scene_id"] for row in rows], identity, least)
        told = [row | {"detector_id": identity, "detections": counts.get(row["scene_id"], {})} for row in told]
    return told


def _embed(tower_name: str, text: str | None, image: str | None) -> NDArray[np.float32]:
    """A query in the tower's space, float32 [E], norm 1."""
    import torch

    tower = load_tower(tower_name, choose_runtime(num_cpus=1, use_gpu=torch.cuda.is_available()))
    if text is not None:
        if not text.strip():
            raise ConfigError("--text is empty")
        return tower.encode_texts([text])[0].float().cpu().numpy()
    picture = read_window_pictures([Frame("query", 0, str(image))], PictureLimits(), max(tower.input_size))[0]
    if isinstance(picture, DataError):
        raise picture
    pixels = torch.from_numpy(resize_for_tower(picture.rgb_HWC, tower.input_size)[None])
    return tower.encode_images(pixels).pooled_NE[0].float().cpu().numpy()
