"""Whether what is called infrared looks like RGB: told by the colours of pictures, wherever they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from system.errors import DataError, storage_errors
from system.pairs.infrared_set import InfraredPicture
from system.pairs.pixels import InfraredMapping, read_infrared

_LOOKED_AT, _READ_AT_ONCE = 64, 4


def tell_coloured(coloured: int, looked_at: int, note: Callable[[str], None], of: str = "pictures") -> None:
    """Warn where pictures are coloured, as no infrared camera's are."""
    if coloured:
        note(
            f"warning: {coloured} of {looked_at} {of} are coloured: expected infrared; RGB pictures or false colours "
            "give poor boxes and figures"
        )


def count_coloured(pictures: Sequence[InfraredPicture], of: str, note: Callable[[str], None]) -> int:
    """How many of at most 64 pictures, evenly over all, are coloured; warns of them. Unreadable ones do not count.

    Args:
        of: what they are, for the warning.
    """
    chosen = pictures[:: max(1, -(-len(pictures) // _LOOKED_AT))]
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        seen = [is_coloured for is_coloured in pool.map(_is_coloured, chosen) if is_coloured is not None]
    tell_coloured(sum(seen), len(seen), note, f"pictures of {of} that were looked at")
    return sum(seen)


def _is_coloured(picture: InfraredPicture) -> bool | None:
    try:
        return read_infrared(picture.uri, InfraredMapping()).is_coloured
    except DataError:
        return None
    except storage_errors():
        return None
