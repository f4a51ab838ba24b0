"""Results of Ray tasks as they end, and in plain words what Ray could not go on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from system.errors import ModelError, NightminerError

# What Ray's errors mean to whoever asked for the tasks.
_TOLD: dict[type[RayError], str] = {
    OutOfMemoryError: "a machine ran out of memory, so Ray ended a task",
    WorkerCrashedError: "a worker process died again and again; it was killed, crashed, or the memory was full",
    NodeDiedError: "a machine of the cluster was lost",
}
_DETAIL_LETTERS = 300


def as_they_end(tasks: Sequence[Any], kept: str) -> Iterator[tuple[Any, Any]]:
    """(task, result) of each in the order in which they end; where one fails, those that have not ended are cancelled.

    Args:
        kept: what stays of the work, for messages.
    Raises:
        NightminerError, ModelError: as `raise_told`.
    """
    pending = list(tasks)
    while pending:
        done, pending = ray.wait(pending)
        try:
            result = ray.get(done[0])
        except RayError as error:
            for task in pending:
                with suppress(RayError):
                    ray.cancel(task, force=True)
            raise_told(error, kept)
        yield done[0], result


def result_of(task: Any, kept: str) -> Any:
    """The result of one task; raises as `as_they_end`."""
    ((_, result),) = as_they_end([task], kept)
    return result


def raise_told(error: RayError, kept: str) -> NoReturn:
    """
    Raises:
        NightminerError: what the task raised. ModelError: Ray lost the worker, its memory or its machine; with what
            happened and what to do. RayTaskError: as it is, of any other error in a task, which is a bug.
    """
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, NightminerError):
            raise error.cause from None
        # A bare RayError stands for an error that Ray could not send.
        if not isinstance(error.cause, RayError) or type(error.cause) is RayError:
            raise error
        error = error.cause
    told = next((text for kind, text in _TOLD.items() if isinstance(error, kind)), "Ray could not end a task")
    detail = " ".join(str(error).split())[:_DETAIL_LETTERS]
    raise ModelError(
        f"{told} ({type(error).__name__}: {detail}); {kept}. Where memory is short, let fewer run at once (more CPUs "
        "for each) or take more memory; then repeat the command"
    ) from None
