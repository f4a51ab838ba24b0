"""Parts of a corpus: those that its layout names, and text files of names, one a line (imageSets/train.txt)."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from system.errors import DataError
from system.pairs import files
from system.pairs.matching import split_of
from system.pairs.records import Pair, PairCorpus, PairFault

_MAX_LIST_BYTES = 256 << 20
_SIDES = ("visible", "lwir", "infrared", "images")


def is_list(uri: str) -> bool:
    """Whether a path is a text file."""
    return uri.lower().endswith(".txt") and files.is_file(uri)


def read_names(uri: str) -> list[str]:
    """The names of a list, without suffixes and without the folders that tell the modality.

    Raises:
        DataError: it cannot be read, is no text or names nothing.
    """
    try:
        lines = files.read_bytes(uri, _MAX_LIST_BYTES).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("bad_list", f"{uri}: expected a text file of names, one a line: {error}") from error
    names = []
    for line in lines:
        word = line.strip().replace("\\", "/")
        if word and not word.startswith(("#", "%")):
            parts = [part for part in word.split("/") if part not in (*_SIDES, ".")]
            base, suffix = posixpath.splitext("/".join(parts))
            names.append(base if suffix.lower() in files.PICTURE_SUFFIXES else base + suffix)
    if not names:
        raise DataError("bad_list", f"{uri}: expected names of pairs, one a line, found none")
    return names


_SPLITS = ("train", "val", "test")


def only_named(corpus: PairCorpus, names: list[str], uri: str) -> PairCorpus:
    """The pairs that a list names, by id or its last part; names without a pair are unmatched.

    Where infrared pictures without a partner are named, they are among the unmatched by their ids.
    """
    pairs, others = _Named(corpus.pairs), _Named(corpus.infrared_alone)
    # Of a list that is called otherwise, whoever names it means its pairs.
    split = next((word for word in _SPLITS if files.stem(uri).lower().startswith(word)), "")
    taken, alone, unmatched = [], [], []
    for name in dict.fromkeys(names):
        if (pair := pairs.get(name)) is not None:
            taken.append(replace(pair, split=split))
            continue
        if (pair := others.get(name)) is not None:
            alone.append(replace(pair, split=split))
        unmatched.append(name if pair is None else pair.pair_id)
    chosen = {pair.pair_id for pair in (*taken, *alone)}
    return replace(
        corpus,
        name=f"{corpus.name}/{files.stem(uri)}",
        pairs=tuple(taken),
        unmatched=tuple(unmatched),
        infrared_alone=tuple(alone),
        faults=tuple(fault for fault in corpus.faults if fault.pair_id in chosen),
        infrared_alone_faults=tuple(fault for fault in corpus.infrared_alone_faults if fault.pair_id in chosen),
    )


class _Named:
    """Pairs by their id, or its last part where only one has it."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._by_id = {pair.pair_id: pair for pair in pairs}
        self._stems = Counter(pair_id.rsplit("/", 1)[-1] for pair_id in self._by_id)
        self._by_stem = {pair_id.rsplit("/", 1)[-1]: pair for pair_id, pair in self._by_id.items()}

    def get(self, name: str) -> Pair | None:
        return self._by_id.get(name) or (self._by_stem.get(name) if self._stems[name] == 1 else None)


def of_splits(corpus: PairCorpus, uri: str, splits: Sequence[str] | None) -> tuple[list[Pair], list[PairFault]]:
    """Infrared pictures of the parts that are taken, of all if None, and faults: those of no other part, and names of a
    list without an infrared picture.

    Args:
        uri: what the corpus was opened by. splits: as the layout names them; a pair that is in none is always taken.
    Returns:
        Pairs, then infrared pictures without a partner. Faults: `missing_file`: a list at `uri` names it, and there is
        no such picture.
    """
    everything = (*corpus.pairs, *corpus.infrared_alone)
    taken = [pair for pair in everything if splits is None or pair.split in ("", *splits)]
    ids = {pair.pair_id for pair in taken}
    others = {pair.pair_id for pair in everything} - ids
    faults = [
        fault
        for fault in (*corpus.faults, *corpus.infrared_alone_faults)
        if fault.pair_id in ids
        or (fault.pair_id not in others and (splits is None or split_of(fault.pair_id) in ("", *splits)))
    ]
    if is_list(uri):
        told = f"named by {files.name(uri)}, expected an infrared picture of this name, found none"
        faults += [PairFault(name, "missing_file", told) for name in corpus.unmatched if name not in ids | others]
    return taken, faults
