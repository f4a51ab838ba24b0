"""Which pictures a model has learnt from, so that no figure on them is taken for one on pictures that it never saw.

Beside the weights lie lists of marks: short hashes of a picture's name and of its bytes, a picture a line. So a picture
is known again by its name and, as long as nobody wrote it anew, as a copy elsewhere.

    training_pictures.txt   what a detector, a segmenter, a distilled backbone or the students of a study learnt from
    backbone_pictures.txt   what the backbone of a detector or segmenter had learnt from, without labels, before
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray

from system.errors import DataError, ModelError
from system.infrared import detector, segmenter
from system.pairs import files
from system.training.distill_publish import DISTILL_NAME

OWN_NAME, BACKBONE_NAME = "training_pictures.txt", "backbone_pictures.txt"
_MARK_LETTERS, _MAX_FILE_BYTES = 16, 1 << 30
_TASK_PICTURES, _THREADS, _TASK_CPUS = 512, 8, 0.5

# The marks of one picture: of its name, and of its bytes where it can be read.
Marks = tuple[str, ...]


def marks_of(uris: Sequence[str]) -> list[Marks]:
    """The marks of each picture, in order; by tasks where a cluster is connected, whose workers then read the files."""
    if not ray.is_initialized():
        return _marked(uris)
    parts = [uris[k : k + _TASK_PICTURES] for k in range(0, len(uris), _TASK_PICTURES)]
    return [marks for part in ray.get([_marked_task.remote(part) for part in parts]) for marks in part]


@ray.remote(num_cpus=_TASK_CPUS)
def _marked_task(uris: Sequence[str]) -> list[Marks]:
    return _marked(uris)


def _marked(uris: Sequence[str]) -> list[Marks]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_marks, uris))


def _marks(uri: str) -> Marks:
    try:
        return _hash(uri.encode()), _hash(files.read_bytes(uri, _MAX_FILE_BYTES))
    except DataError:
        return (_hash(uri.encode()),)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_MARK_LETTERS]


def write_learnt(folder: Path, marks: Iterable[Marks], name: str = OWN_NAME) -> None:
    """Raises ModelError: the folder cannot be written."""
    try:
        (folder / name).write_text("".join(f"{' '.join(of_one)}\n" for of_one in sorted(set(marks))), "utf-8")
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error.strerror or error}") from error


def read_learnt(folder: Path, name: str = OWN_NAME) -> list[Marks] | None:
    """None where the folder does not tell."""
    try:
        return [tuple(line.split()) for line in (folder / name).read_text("utf-8").splitlines()]
    except OSError:
        return None


def learnt_by_backbone(backbone: str) -> list[Marks] | None:
    """What a backbone has learnt from; none for the weights of others, None for one of ours that does not tell.

    Args:
        backbone: a name, `NAME@FILE`, or a folder of jobs/distill_freqkd.py. FILE may lie in the folder of a detector
            or segmenter: then from what the backbone had learnt from before, and, where it was not frozen, also from
            what that model did.
    """
    folder = Path(backbone)
    if not folder.is_dir():
        if "@" not in backbone:
            return []
        folder = Path(backbone.split("@", 1)[1]).parent
    told = read_learnt(folder)
    if _configs(folder):
        return _by_backbone_of(folder, told)
    return [] if told is None and not (folder / DISTILL_NAME).is_file() else told


def _configs(folder: Path) -> list[Path]:
    """Configurations of a detector or segmenter that lie there."""
    found = [folder / name for name in (detector.CONFIG_NAME, segmenter.CONFIG_NAME)]
    return [config for config in found if config.is_file()]


def _by_backbone_of(folder: Path, told: list[Marks] | None) -> list[Marks] | None:
    """What a detector's or segmenter's backbone has learnt from; `told`: what the model has."""
    before = read_learnt(folder, BACKBONE_NAME)
    if all(map(_is_frozen, _configs(folder))):
        return before
    return None if told is None or before is None else told + before


def _is_frozen(model: Path) -> bool:
    """Of a detector's or segmenter's configuration; one that cannot be read may have learnt."""
    try:
        return json.loads(model.read_text("utf-8")).get("is_frozen") is True
    except (OSError, ValueError, AttributeError):
        return False


def learnt_with_start(
    learnt: list[Marks], start: Path, note: Callable[[str], None]
) -> tuple[list[Marks], list[Marks] | None]:
    """What a model and its backbone have learnt from, where the training began with an earlier model.

    Args:
        learnt: by this training. note: told where the earlier model does not tell; the backbone, which it brought, then
            does not either, so that whoever judges is warned.
    Returns:
        (of the model, of its backbone).
    """
    earlier = read_learnt(start)
    if earlier is None:
        note(f"warning: which pictures --start {start} learnt from is not told; nor will the new model tell")
        return learnt, None
    return learnt + earlier, _by_backbone_of(start, earlier)


def seen_before(marks: Sequence[Marks], learnt: Iterable[Marks]) -> list[int]:
    """Places of those pictures that were learnt from, by name or by bytes."""
    known = {mark for of_one in learnt for mark in of_one}
    return [n for n, of_one in enumerate(marks) if known.intersection(of_one)]


def tell_seen(
    who: str, uris: Sequence[str], marks: Sequence[Marks], learnt: list[Marks] | None, note: Callable[[str], None]
) -> int | None:
    """Warn of pictures that are judged though something learnt from them.

    Args:
        who: what learnt, for the warning. learnt: None where it is not known.
    Returns:
        How many they are; None where it is not known.
    """
    if learnt is None:
        note(f"warning: which pictures {who} learnt from is not told; they may be among those that are judged")
        return None
    seen = seen_before(marks, learnt)
    if seen:
        note(
            f"warning: {who} learnt from {len(seen)} of the {len(uris)} pictures that are judged, e.g. "
            f"{uris[seen[0]]}; the figures are not of unseen pictures"
        )
    return len(seen)


def count_seen(
    uris: Sequence[str],
    marks: Sequence[Marks],
    learners: Sequence[tuple[str, list[Marks] | None]],
    note: Callable[[str], None],
) -> int | None:
    """Warn of pictures that are judged though one of several learnt from them, as `tell_seen`.

    Args:
        learners: who, for the warning, and what it learnt from.
    Returns:
        How many at least one of them learnt from; None where none did as far as is known, and one does not tell.
    """
    for who, learnt in learners:
        tell_seen(who, uris, marks, learnt, note)
    count = len(seen_before(marks, [of_one for _, learnt in learners for of_one in learnt or ()]))
    return None if not count and any(learnt is None for _, learnt in learners) else count


def judge_unseen(model: Path, data: str, uris: Sequence[str], noun: str, note: Callable[[str], None]) -> int | None:
    """Before a detector or segmenter is judged: refuse pictures that it was trained on, warn of others that it knows.

    Args:
        data: the set, for messages.
    Returns:
        How many it or its backbone learnt from under another name or without labels; None where that is not known.
    Raises:
        DataError: `leak`: it was trained on some of them.
    """
    marks, own, before = marks_of(uris), read_learnt(model), read_learnt(model, BACKBONE_NAME)
    if own and (known := seen_before([of_one[:1] for of_one in marks], own)):
        raise DataError(
            "leak", f"{model} was trained on {len(known)} of the {len(uris)} pictures of {data}, e.g. {uris[known[0]]}"
        )
    return count_seen(uris, marks, ((f"the {noun} {model}", own), (f"the backbone of {model}", before)), note)
