"""Pairs that a probe is fitted on and read on: read once, at network size, with what their patches show.

Legend: N pictures, H x W pixels, h x w patches, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.errors import ConfigError, DataError
from system.freqkd.probe import IGNORED, patch_targets
from system.pairs.pixels import InfraredMapping, read_pair
from system.pairs.records import Pair, PairCorpus
from system.pairs.registry import open_pairs
from system.pairs.resize import fit_pair, scale_boxes
from system.pairs.subset import is_list

Bytes = NDArray[np.uint8]
# A picture in twenty may be unreadable; more, and the figure is of another corpus.
_MAX_FAULTY_SHARE = 0.05
# Parts of a corpus, as its layout names them, that are learnt from and judged on.
TRAINED_SPLITS, JUDGED_SPLITS = ("train",), ("val", "test")


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """The pairs of a corpus at network size, with what their patches show.

    rgb_NHWC, infrared_NHWC: uint8. sizes: of the pictures as they were, (height, width). faults: what could not be
    read, one line for each. mended: boxes that were dropped or cut.
    """

    name: str
    pairs: tuple[Pair, ...]
    categories: tuple[str, ...]
    rgb_NHWC: Bytes
    infrared_NHWC: Bytes
    sizes: tuple[tuple[int, int], ...]
    faults: tuple[str, ...]
    mended: tuple[str, ...] = ()

    def targets(self, classes: Sequence[str], patch: int) -> NDArray[np.int8]:
        """What each patch shows, [N, h, w, K]; all is ignored where nobody drew boxes."""
        number = {name: n for n, name in enumerate(self.categories)}
        wanted = np.full(len(self.categories) + 1, -1)
        for k, name in enumerate(classes):
            wanted[number[name]] = k
        size = (self.rgb_NHWC.shape[1], self.rgb_NHWC.shape[2])
        found = np.stack(
            [
                patch_targets(
                    scale_boxes(pair.boxes_xyxy, original, size),
                    wanted[pair.labels],
                    pair.is_ignored,
                    len(classes),
                    size,
                    patch,
                )
                for pair, original in zip(self.pairs, self.sizes, strict=True)
            ]
        )
        found[[not pair.is_labelled for pair in self.pairs]] = IGNORED
        return found

    def sha256(self) -> str:
        """Of pictures and boxes."""
        digest = hashlib.sha256(repr([pair.pair_id for pair in self.pairs]).encode())
        for values in (self.rgb_NHWC, self.infrared_NHWC):
            digest.update(np.ascontiguousarray(values).data)
        for pair in self.pairs:
            digest.update(np.asarray(pair.boxes_xyxy, np.float32).tobytes())
            digest.update(repr((pair.labels.tolist(), pair.is_ignored.tolist())).encode())
        return digest.hexdigest()


def refuse_shared(train: ProbeSet, test: ProbeSet) -> None:
    """Raises DataError: a picture to be tested on is trained on."""
    known = {pair.infrared_uri for pair in train.pairs}
    if shared := [pair.infrared_uri for pair in test.pairs if pair.infrared_uri in known]:
        raise DataError(
            "leak", f"{len(shared)} of {len(test.pairs)} test pictures are trained on too, e.g. {shared[0]}"
        )


def read_sets(
    train: str,
    test: str,
    size: tuple[int, int],
    mapping: InfraredMapping,
    max_train_pictures: int,
    note: Callable[[str], None],
) -> tuple[ProbeSet, ProbeSet]:
    """What is learnt from and what is judged on; of corpora that name their parts, those for it.

    Args:
        note: told what is left out, dropped or cut.
    Raises:
        DataError: as `read_set` and `refuse_shared`.
    """
    both = (
        read_set(train, TRAINED_SPLITS, size, mapping, max_train_pictures),
        read_set(test, JUDGED_SPLITS, size, mapping),
    )
    refuse_shared(*both)
    tell_faults(both, note)
    return both


def read_set(
    uri: str,
    splits: Sequence[str],
    size: tuple[int, int],
    mapping: InfraredMapping,
    max_pictures: int | None = None,
) -> ProbeSet:
    """Read pairs of a corpus and resize them; what cannot be read is left out and told.

    Args:
        splits: that are taken of a corpus that names them. max_pictures: more are thinned evenly.
    Raises:
        DataError: nothing can be read, or too much of it cannot; two classes of one name.
    """
    corpus = open_pairs(uri)
    categories = tuple(name.strip().lower() for name in corpus.categories)
    if len(set(categories)) < len(categories):
        raise DataError("not_coco", f"{uri}: two of its classes are both called one of {', '.join(categories)}")
    skipped = [str(fault) for fault in corpus.faults if fault.is_skipped]
    if is_list(uri):
        skipped += [f"{name}: missing_file: named by the list, not found" for name in corpus.unmatched]
    _refuse_faulty(corpus, skipped, len(corpus.pairs) + len(skipped))
    chosen = tuple(pair for pair in corpus.pairs if pair.split in ("", *splits))
    if corpus.pairs and not chosen:
        held = ", ".join(sorted({pair.split for pair in corpus.pairs}))
        raise DataError("no_pairs", f"{uri}: expected pairs of {' or '.join(splits)}, found those of {held}")
    if max_pictures is not None and len(chosen) > max_pictures:
        chosen = tuple(chosen[n] for n in np.linspace(0, len(chosen) - 1, max_pictures).round().astype(int))
    pairs, rgb, infrared, sizes, faults = [], [], [], [], []
    for pair in chosen:
        try:
            pixels = read_pair(pair, mapping)
            fitted = fit_pair(pixels, size)
        except DataError as error:
            faults.append(str(error))
            continue
        pairs.append(pair)
        rgb.append(fitted.rgb_HWC)
        infrared.append(fitted.infrared_HWC)
        sizes.append((pixels.infrared_HWC.shape[0], pixels.infrared_HWC.shape[1]))
    _refuse_faulty(corpus, faults, len(chosen))
    return ProbeSet(
        corpus.name,
        tuple(pairs),
        categories,
        np.stack(rgb),
        np.stack(infrared),
        tuple(sizes),
        (*skipped, *faults),
        tuple(str(fault) for fault in corpus.faults if not fault.is_skipped),
    )


def tell_faults(sets: Sequence[ProbeSet], note: Callable[[str], None]) -> None:
    """Say what is left out of sets, and which boxes were dropped or cut."""
    for part in sets:
        for kind, faults in (("left out", part.faults), ("boxes dropped or cut", part.mended)):
            if faults:
                note(f"{part.name}: {kind}: {len(faults)}, e.g. {faults[0]}")


def _refuse_faulty(corpus: PairCorpus, faults: Sequence[str], count: int) -> None:
    if not count or len(faults) == count:
        raise DataError("no_pairs", f"{corpus.name}: no pair could be read" + (f": {faults[0]}" if faults else ""))
    if len(faults) > _MAX_FAULTY_SHARE * count:
        raise DataError(
            "too_many_faults", f"{corpus.name}: {len(faults)} of {count} pairs cannot be read, the first: {faults[0]}"
        )


def shared_classes(train: ProbeSet, test: ProbeSet, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Classes of which both sets show an object, in the order of `train`, or those asked for.

    Raises:
        ConfigError: one of `wanted` is not shown by both. DataError: none is.
    """
    shown = [set(_shown(part)) for part in (train, test)]
    both = tuple(name for name in train.categories if name in shown[0] & shown[1])
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"classes {', '.join(wanted)}: expected each once")
    if missing := [name for name in wanted if name not in both]:
        raise ConfigError(f"class {missing[0]}: not shown by both sets; they share {', '.join(both) or 'none'}")
    if not both:
        raise DataError(
            "no_shared_class",
            f"{train.name} shows {', '.join(sorted(shown[0])) or 'nothing'}, {test.name} "
            f"{', '.join(sorted(shown[1])) or 'nothing'}: a probe needs boxes of a class of the same name in both",
        )
    return tuple(wanted) or both


def _shown(part: ProbeSet) -> list[str]:
    numbers = {int(label) for pair in part.pairs for label in pair.labels[~pair.is_ignored]}
    return [name for n, name in enumerate(part.categories) if n in numbers]
