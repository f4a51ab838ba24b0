"""Where a page ended, and what it was a page of, as a text that a client hands back."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve.models import Cursor, ImageQuery, Query, SearchRequest, TextQuery

# Queries have norm 1; what is far from it no server has written.
_NORMS = 0.9, 1.1


class ForeignCursorError(Exception):
    """A cursor of another question, or of no server."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where a page begins.

    version: of the scenes. model_key: digest of the model's id. first: place in the ranking. asked: digest of the
    question. detections: version of the table that a filter looks at, None where none does. query_E: float32 [E], the
    vector of a text or picture as the first page had it, for a model tells a batch's queries apart in their last digits
    only; None on a first page, and for queries that the store answers by itself.
    """

    version: int
    model_key: str
    first: int
    asked: str
    detections: int | None = None
    query_E: NDArray[np.float32] | None = None

    @classmethod
    def parse(cls, cursor: Cursor) -> Self:
        """Raises ForeignCursorError: no server has written it."""
        version, model_key, first, asked, *more = cursor.removeprefix("v").split(".")
        parts = {part[0]: part[1:] for part in more}
        query_E = _vector(parts["q"]) if "q" in parts else None
        return cls(int(version), model_key, int(first), asked, int(parts["d"]) if "d" in parts else None, query_E)

    def text(self) -> Cursor:
        """As `parse` takes it."""
        parts = [f"v{self.version}", self.model_key, str(self.first), self.asked]
        if self.detections is not None:
            parts.append(f"d{self.detections}")
        if self.query_E is not None:
            parts.append("q" + urlsafe_b64encode(self.query_E.astype("<f4").tobytes()).decode().rstrip("="))
        return ".".join(parts)

    def key(self) -> str:
        """What all pages of one ranking share."""
        vector = None if self.query_E is None else self.query_E.tobytes()
        return digest(self.version, self.model_key, self.asked, self.detections, vector, size=16)


def question_of(request: SearchRequest) -> str:
    """Digest of all that a next page must ask again, as the client wrote it: 16 hexadecimal digits."""
    return digest(_asked(request.query), request.where.model_dump(), request.weights.model_dump(), request.as_of)


def normalised(text: str) -> str:
    """A text as it is encoded: blanks do not count."""
    return " ".join(text.split())


def digest(*parts: object, size: int = 8) -> str:
    """Of their representations; twice `size` hexadecimal digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=size).hexdigest()


def _asked(query: Query | None) -> tuple[str, str] | None:
    if query is None:
        return None
    if isinstance(query, TextQuery):
        return query.kind, normalised(query.text)
    if isinstance(query, ImageQuery):
        return query.kind, hashlib.sha256(query.image_base64).hexdigest()
    return query.kind, query.scene_id


def _vector(text: str) -> NDArray[np.float32]:
    try:
        query_E = np.frombuffer(urlsafe_b64decode(text + "=" * (-len(text) % 4)), "<f4").astype(np.float32)
    except ValueError as error:
        raise ForeignCursorError from error
    if not _NORMS[0] < np.linalg.norm(query_E.astype(np.float64)) < _NORMS[1]:
        raise ForeignCursorError
    return query_E
