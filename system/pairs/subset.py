"""Parts of a corpus: those that its layout names, and text files of names, one a line (imageSets/train.txt)."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
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
    """The pairs that a list names, by id or its last part; names without a pair are unmatched, or faults where their
    pair was left out.

    Where infrared pictures without a partner are named, they are among the unmatched by their ids.
    """
    named = _Named((*corpus.pairs, *corpus.infrared_alone))
    left_out, alone_left_out = _left_out(corpus.faults), _left_out(corpus.infrared_alone_faults)
    split = _split_of_list(uri)
    taken: list[Pair] = []
    alone: list[Pair] = []
    unmatched: list[str] = []
    chosen: set[str] = set()
    for name in dict.fromkeys(names):
        if (pair := named.get(name)) is not None:
            (taken if pair.rgb_uri else alone).append(replace(pair, split=split))
            chosen.add(pair.pair_id)
            unmatched += [] if pair.rgb_uri else [pair.pair_id]
        elif name in left_out:
            chosen |= left_out[name]
        elif name in alone_left_out:
            chosen |= alone_left_out[name]
            unmatched += sorted(alone_left_out[name])
        else:
            unmatched.append(name)
    return replace(
        corpus,
        name=f"{corpus.name}/{files.stem(uri)}",
        pairs=tuple(taken),
        unmatched=tuple(unmatched),
        infrared_alone=tuple(alone),
        faults=tuple(fault for fault in corpus.faults if fault.pair_id in chosen),
        infrared_alone_faults=tuple(fault for fault in corpus.infrared_alone_faults if fault.pair_id in chosen),
    )


def _split_of_list(uri: str) -> str:
    """The part that a list is called by, else "": whoever names such a list means its pairs."""
    return next((word for word in _SPLITS if files.stem(uri).lower().startswith(word)), "")


def _left_out(faults: Sequence[PairFault]) -> dict[str, set[str]]:
    """Ids of what was left out, by id and by its last part."""
    found: dict[str, set[str]] = defaultdict(set)
    for fault in faults:
        if fault.is_skipped:
            found[fault.pair_id].add(fault.pair_id)
            found[fault.pair_id.rsplit("/", 1)[-1]].add(fault.pair_id)
    return found


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
    is_listed, of_list = is_list(uri), _split_of_list(uri)
    told = (*corpus.faults, *corpus.infrared_alone_faults)
    everything = (*corpus.pairs, *corpus.infrared_alone)
    taken = [pair for pair in everything if splits is None or pair.split in ("", *splits)]
    ids = {pair.pair_id for pair in taken}
    others = {pair.pair_id for pair in everything} - ids
    faults = [
        fault
        for fault in told
        if fault.pair_id in ids
        or (
            fault.pair_id not in others
            and (splits is None or (of_list if is_listed else split_of(fault.pair_id)) in ("", *splits))
        )
    ]
    if is_listed:
        why = f"named by {files.name(uri)}, expected an infrared picture of this name, found none"
        known = ids | others | {fault.pair_id for fault in told}
        faults += [PairFault(name, "missing_file", why) for name in corpus.unmatched if name not in known]
    return taken, faults
