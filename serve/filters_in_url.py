"""The filters of a search as parameters of a URL."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from serve.models import Filters, ObjectKind, Words

_Ns = Annotated[int | None, Query(ge=-(2**63), lt=2**63)]
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
    )


UrlFilters = Annotated[Filters, Depends(filters_of_url)]
