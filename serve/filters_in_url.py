"""The filters of a search as parameters of a URL."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from pydantic import Field

from serve.models import DetectedObjects, Filters, ObjectKind, Word, Words

_Ns = Annotated[int | None, Query(gt=-(2**63), lt=2**63)]
_DETECTED = r"^[^:]{1,200}(:(0|1|0?\.[0-9]{1,6}|1\.0{1,6})(:([1-9][0-9]{0,2}|1000))?)?$"
_Share = Annotated[float | None, Query(ge=0, le=1)]


async def filters_of_url(
    tag: Annotated[Words, Query(description="all of these are present")] = [],  # noqa: B006
    any_tag: Annotated[Words, Query(description="at least one is present")] = [],  # noqa: B006
    without_tag: Annotated[Words, Query(description="none is present")] = [],  # noqa: B006
    min_risk: _Share = None,
    max_risk: _Share = None,
    min_hardness: _Share = None,
    max_hardness: _Share = None,
    max_ttc_s: Annotated[float | None, Query(ge=0, le=1000)] = None,
    from_ns: _Ns = None,
    to_ns: _Ns = None,
    source: Annotated[Words, Query()] = [],  # noqa: B006
    log: Annotated[Words, Query()] = [],  # noqa: B006
    camera: Annotated[Words, Query()] = [],  # noqa: B006
    object: Annotated[list[ObjectKind], Query(max_length=8)] = [],  # noqa: B006
    detected: Annotated[
        list[Annotated[str, Field(pattern=_DETECTED)]],
        Query(max_length=8, description="CLASS[:SCORE[:COUNT]], found by now"),
    ] = [],  # noqa: B006
    detector: Annotated[Word | None, Query(description="whose findings; the newest, if not given")] = None,
) -> Filters:
    """As `serve.models.Filters`; a parameter that is a list may be repeated."""
    return Filters(
        tags=tag,
        any_tags=any_tag,
        without_tags=without_tag,
        min_risk=min_risk,
        max_risk=max_risk,
        min_hardness=min_hardness,
        max_hardness=max_hardness,
        max_ttc_s=max_ttc_s,
        from_ns=from_ns,
        to_ns=to_ns,
        sources=source,
        logs=log,
        cameras=camera,
        objects=object,
        detected=[_detected(form) for form in detected],
        detector=detector,
    )


def _detected(form: str) -> DetectedObjects:
    label, score, count = (*form.split(":"), "", "")[:3]
    return DetectedObjects(label=label, min_score=float(score or 0.5), count=int(count or 1))


UrlFilters = Annotated[Filters, Depends(filters_of_url)]
