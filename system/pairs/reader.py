"""What a reader of paired corpora does, and what is publicly known of corpora by their name."""

from __future__ import annotations

from typing import Protocol

from system.pairs.records import Alignment, PairCorpus

# How the makers say that their pairs lie on each other. MSRS, RoadScene, LLVIP and M3FD were registered; KAIST
# and MFNet come from one optical axis or a calibrated rig, and are known to drift.
_ALIGNMENT: tuple[tuple[str, Alignment], ...] = (
    ("msrs", "registered"),
    ("roadscene", "registered"),
    ("llvip", "registered"),
    ("m3fd", "registered"),
    ("kaist", "nominal"),
    ("mfnet", "nominal"),
)


class PairReader(Protocol):
    """One layout of paired corpora.

    Attributes:
        name: what `--reader` calls it.
        looks_for: in a few words, for the message where nothing fits.
    """

    name: str
    looks_for: str

    def recognise(self, uri: str) -> str | None:
        """Why the path is of this layout, or None. Looks at names, opens at most one small file."""
        ...

    def read(self, uri: str) -> PairCorpus:
        """List the pairs, without their pixels.

        Raises:
            DataError: the path does not hold what the layout promises. Faults of single pairs are in the corpus.
        """
        ...


class InfraredReader(PairReader, Protocol):
    """One layout of which labelled infrared pictures alone can be read, too."""

    def recognise_infrared(self, uri: str) -> str | None:
        """Why the path is of this layout though it may hold no RGB, or None; asked where no reader recognises pairs."""
        ...


def known_alignment(path: str) -> Alignment:
    """By the name of a corpus in its path; `unknown` for others."""
    parts = [part.lower() for part in path.split("/")[-6:]]
    for name, alignment in _ALIGNMENT:
        if any(part.startswith(name) for part in parts):
            return alignment
    return "unknown"
