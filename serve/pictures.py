"""Pictures on their way to a browser: made anew from their pixels, tagged, and sent whole or in part."""

from __future__ import annotations

import hashlib
import io
import re
import warnings

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response

from serve.problems import ProblemError
from system.logs.decoding import PictureLimits, decode_picture

_QUALITY = 85
# A scene that is mined again has other pictures at the same URL: the ETag tells.
_CACHE = "private, no-cache"
# No picture is longer than 18 digits say, and Python reads no number of thousands of digits.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def encoded_again(data: bytes, name: str, limits: PictureLimits, long_side: int | None = None) -> bytes:
    """A JPEG of nothing but the pixels: no metadata, no trailing bytes.

    Raises:
        DataError: as `decode_picture`.
    """
    return jpeg_of(decode_picture(data, name, limits).rgb_HWC, long_side)


def jpeg_of(pixels: NDArray[np.uint8], long_side: int | None = None) -> bytes:
    """uint8 [H, W] or [H, W, 3] as a JPEG, no side longer than asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.fromarray(pixels)
        if long_side is not None and max(image.size) > long_side:
            image.thumbnail((long_side, long_side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def picture_response(request: Request, jpeg: bytes) -> Response:
    """200, 304 where the client has it already, or 206 for one range of it (RFC 9110; several ranges get all).

    Raises:
        ProblemError: 416, a range that begins beyond the end.
    """
    etag = f'"{hashlib.blake2b(jpeg, digest_size=16).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": _CACHE, "Accept-Ranges": "bytes", "Vary": "Authorization"}
    held = request.headers.get("if-none-match", "")
    if held == "*" or etag in (part.strip().removeprefix("W/") for part in held.split(",")):
        return Response(status_code=304, headers=headers)
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if_range = request.headers.get("if-range")
    if asked is None or asked.group(0) == "bytes=-" or (if_range is not None and if_range != etag):
        return Response(jpeg, media_type="image/jpeg", headers=headers)
    first, last = asked.groups()
    if first:
        start, end = int(first), min(int(last or len(jpeg)), len(jpeg) - 1)
        if last and int(last) < int(first):  # not a range at all, so it is ignored
            return Response(jpeg, media_type="image/jpeg", headers=headers)
    else:
        start, end = max(0, len(jpeg) - int(last)), len(jpeg) - 1
    if start > end:
        told = f"the picture has {len(jpeg)} bytes; expected a range that begins within them"
        raise ProblemError(416, "bad_range", told, {"Content-Range": f"bytes */{len(jpeg)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(jpeg)}"
    return Response(jpeg[start : end + 1], 206, headers, media_type="image/jpeg")
