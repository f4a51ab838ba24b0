"""Which readers of paired corpora there are, and which of them fits a path."""

from __future__ import annotations

from dataclasses import replace

from system.errors import ConfigError, DataError, FormatError
from system.pairs import files
from system.pairs.coco import CocoReader
from system.pairs.reader import PairReader
from system.pairs.records import PairCorpus

READERS: tuple[PairReader, ...] = (CocoReader(),)


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


def open_pairs(uri: str, reader: str = "auto") -> PairCorpus:
    """List the pairs at a path.

    Args:
        uri: a folder of one of the known layouts, a COCO file (one split), or RGB_FOLDER::INFRARED_FOLDER.
        reader: its name: only it is asked; "auto": all are, in the order of READERS, and the first that recognises the
            path has it.
    Raises:
        ConfigError: unknown reader. FormatError: an empty folder, or no reader fits. DataError: nothing is at the path,
        or it holds no pair.
    """
    readers = READERS if reader == "auto" else (reader_named(reader),)
    # Workers may run in another folder than the one that a relative path was typed in.
    uri = "::".join(map(files.absolute, uri.split("::")))
    for part in uri.split("::"):
        if files.is_folder(part):
            if not files.list_folder(part):
                raise FormatError("empty_folder", f"{part}: expected pairs of pictures, found an empty folder")
        elif not files.is_file(part):
            raise DataError("missing_path", f"{part}: expected a folder or a COCO file, found nothing")
    for candidate in readers:
        why = candidate.recognise(uri)
        if why is not None:
            return _checked(replace(candidate.read(uri), why=why), uri)
    looked_for = "; ".join(f"{candidate.name}: {candidate.looks_for}" for candidate in readers)
    raise FormatError("unknown_format", f"{uri}: no reader recognises this. Looked for: {looked_for}")


def _checked(corpus: PairCorpus, uri: str) -> PairCorpus:
    if corpus.pairs:
        return corpus
    skipped = [fault for fault in corpus.faults if fault.is_skipped]
    first = f"; the first fault: {skipped[0]}" if skipped else ""
    told = f"read as {corpus.reader}, {len(corpus.unmatched)} pictures have no partner, {len(skipped)} faults{first}"
    raise DataError("no_pairs", f"{uri}: expected pairs of pictures, found none: {told}")
