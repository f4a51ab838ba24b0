"""Which readers of paired corpora there are, and which of them fits a path."""

from __future__ import annotations

import itertools
from dataclasses import replace

from system.errors import ConfigError, DataError, FormatError
from system.pairs import files
from system.pairs.coco import CocoReader
from system.pairs.flir import FlirReader
from system.pairs.folders import FoldersReader
from system.pairs.kaist import KaistReader
from system.pairs.llvip import LlvipReader
from system.pairs.mfnet import MfnetReader
from system.pairs.msrs import MsrsReader
from system.pairs.reader import InfraredReader, PairReader
from system.pairs.records import PairCorpus
from system.pairs.subset import is_list, only_named, read_names

_FLIR, _KAIST, _LLVIP = FlirReader(), KaistReader(), LlvipReader()
# Asked in this order, the first that recognises a path has it: a file first, then layouts with telling folders. LLVIP
# and MSRS are both two folders of plain names, LLVIP's with splits below, MSRS's with D or N in the names; two plain
# folders come last, because both are also that.
READERS: tuple[PairReader, ...] = (
    CocoReader(),
    _FLIR,
    _KAIST,
    MfnetReader(),
    _LLVIP,
    MsrsReader(),
    FoldersReader(),
)
# Asked where none of these recognises pairs, so that they take nothing that is another's.
INFRARED_READERS: tuple[InfraredReader, ...] = (_FLIR, _KAIST, _LLVIP)


def reader_named(name: str) -> PairReader:
    """The reader that `--reader` calls so.

    Raises:
        ConfigError: there is none; names those there are.
    """
    for reader in READERS:
        if reader.name == name:
            return reader
    known = ", ".join(["auto", *(reader.name for reader in READERS)])
    raise ConfigError(f"--reader {name!r} is unknown; expected one of: {known}")


def open_pairs(uri: str, reader: str = "auto", needs_rgb: bool = True) -> PairCorpus:
    """List the pairs at a path.

    Args:
        uri: a folder of one of the known layouts; a COCO file (one split); a text file of names in a corpus's folder or
            one below (imageSets/train.txt); or RGB_FOLDER::INFRARED_FOLDER.
        reader: its name: only it is asked; "auto": all are, in the order of READERS.
        needs_rgb: else infrared pictures without a partner are enough.
    Raises:
        ConfigError: unknown reader. FormatError: an empty folder, or no reader fits. DataError: nothing is at the path,
        or it holds no pair (nor, without `needs_rgb`, an infrared picture that may have labels).
    """
    readers = READERS if reader == "auto" else (reader_named(reader),)
    parts = [uri] if files.is_folder(uri) else uri.split("::")
    # Workers may run in another folder than the one that a relative path was typed in.
    parts = [files.absolute(part) for part in parts]
    uri = "::".join(parts)
    for part in parts:
        if files.is_folder(part):
            if not files.list_folder(part):
                raise FormatError("empty_folder", f"{part}: expected pairs of pictures, found an empty folder")
        elif not files.is_file(part):
            raise DataError("missing_path", f"{part}: expected a folder or a COCO file, found nothing")
    names = read_names(uri) if is_list(uri) else None
    roots = [uri] if names is None else [files.parent(uri), files.parent(files.parent(uri))]
    for asked, root in itertools.product((recognise, recognise_infrared), roots):
        if (recognised := asked(root, readers)) is not None:
            found, why = recognised
            if needs_rgb and asked is recognise_infrared:
                told = f"read as {found.name}, because {why}, its infrared pictures have no partner"
                raise DataError("no_pairs", f"{uri}: expected pairs of pictures, found none: {told}")
            corpus = replace(found.read(root), why=why)
            return _checked(corpus if names is None else only_named(corpus, names, uri), uri, needs_rgb)
    looked_for = "; ".join(f"{candidate.name}: {candidate.looks_for}" for candidate in readers)
    raise FormatError("unknown_format", f"{', '.join(roots)}: no reader recognises this. Looked for: {looked_for}")


def recognise(uri: str, readers: tuple[PairReader, ...] = READERS) -> tuple[PairReader, str] | None:
    """The first reader that recognises a path, and by what; None where there is none."""
    for reader in readers:
        why = reader.recognise(uri)
        if why is not None:
            return reader, why
    return None


def recognise_infrared(uri: str, readers: tuple[PairReader, ...] = READERS) -> tuple[PairReader, str] | None:
    """The same, by labelled infrared pictures alone."""
    for reader in INFRARED_READERS:
        why = reader.recognise_infrared(uri) if reader in readers else None
        if why is not None:
            return reader, why
    return None


def _checked(corpus: PairCorpus, uri: str, needs_rgb: bool) -> PairCorpus:
    if corpus.pairs or (corpus.infrared_alone and not needs_rgb):
        return corpus
    faults = corpus.faults if needs_rgb else (*corpus.faults, *corpus.infrared_alone_faults)
    skipped = [fault for fault in faults if fault.is_skipped]
    first = f"; the first fault: {skipped[0]}" if skipped else ""
    told = f"read as {corpus.reader}, {len(corpus.unmatched)} pictures have no partner, {len(skipped)} faults{first}"
    raise DataError("no_pairs", f"{uri}: expected pairs of pictures, found none: {told}")
