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
    """The pairs that a list names, by id or its last part; names without a pair are unmatched."""
    by_id = {pair.pair_id: pair for pair in corpus.pairs}
    stems = Counter(pair_id.rsplit("/", 1)[-1] for pair_id in by_id)
    by_stem = {pair_id.rsplit("/", 1)[-1]: pair for pair_id, pair in by_id.items()}
    # Of a list that is called otherwise, whoever names it means its pairs.
    split = next((word for word in _SPLITS if files.stem(uri).lower().startswith(word)), "")
    pairs, alone = [], []
    for name in dict.fromkeys(names):
        pair = by_id.get(name) or (by_stem.get(name) if stems[name] == 1 else None)
        if pair is None:
            alone.append(name)
        else:
            pairs.append(replace(pair, split=split))
    chosen = {pair.pair_id for pair in pairs}
    faults = tuple(fault for fault in corpus.faults if fault.pair_id in chosen)
    return replace(
        corpus, name=f"{corpus.name}/{files.stem(uri)}", pairs=tuple(pairs), unmatched=tuple(alone), faults=faults
    )


def of_splits(corpus: PairCorpus, uri: str, splits: Sequence[str] | None) -> tuple[list[Pair], list[PairFault]]:
    """Pairs of the parts that are taken, of all if None, and faults: those of no other part, and names without a pair.

    Args:
        uri: what the corpus was opened by. splits: as the layout names them; a pair that is in none is always taken.
    Faults: `missing_file`: a list at `uri` names it, and there is no such pair.
    """
    taken = [pair for pair in corpus.pairs if splits is None or pair.split in ("", *splits)]
    ids = {pair.pair_id for pair in taken}
    others = {pair.pair_id for pair in corpus.pairs} - ids
    faults = [
        fault
        for fault in corpus.faults
        if fault.pair_id in ids
        or (fault.pair_id not in others and (splits is None or split_of(fault.pair_id) in ("", *splits)))
    ]
    if is_list(uri):
        told = f"named by {files.name(uri)}, expected a pair of this name, found none"
        faults += [PairFault(name, "missing_file", told) for name in corpus.unmatched]
    return taken, faults
