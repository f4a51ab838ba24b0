"""What ends a task on Ray is told in one line: our own errors as they are, Ray's with what stays and what to do."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

from system.errors import DataError, ModelError
from system.pipelines.task_results import as_they_end, result_of


def of_task(cause: Exception) -> RayError:
    """As `ray.get` raises it: of both classes, with the frames of the task."""
    error = RayTaskError("task", "\x1b[36mray::task()\x1b[39m\n  File ...", cause, "proctitle", 1, "127.0.0.1")
    return error.as_instanceof_cause()


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A Ray whose tasks are their results, or the errors that they end with."""
    stopped: list[object] = []

    def get(task: object) -> object:
        if isinstance(task, Exception):
            raise task
        return task

    monkeypatch.setattr(ray, "wait", lambda tasks: (tasks[:1], tasks[1:]))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "cancel", lambda task, force: stopped.append(task))
    return stopped


def test_results_come_with_their_tasks(cancelled: list[object]):
    assert list(as_they_end([3, 4], "")) == [(3, 3), (4, 4)] and result_of(5, "") == 5 and not cancelled


def test_what_a_task_raised_is_raised_as_it_was_and_the_others_are_cancelled(cancelled: list[object]):
    results = as_they_end([1, of_task(DataError("truncated", "a.png: cut off")), 2, 3], "runs stay")
    assert next(results) == (1, 1)
    with pytest.raises(DataError) as raised:
        next(results)
    assert type(raised.value) is DataError and str(raised.value) == "truncated: a.png: cut off"
    assert cancelled == [2, 3]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemoryError("Task was killed due to\nthe node running low on memory."), "a machine ran out of memory"),
        (WorkerCrashedError(), "a worker process died again and again"),
        (NodeDiedError("node 1 is dead"), "a machine of the cluster was lost"),
        (TaskCancelledError(), "Ray could not end a task"),
        (of_task(WorkerCrashedError()), "a worker process died"),
    ],
)
def test_what_ray_lost_is_told_in_a_line_with_what_stays_and_what_to_do(
    cancelled: list[object], error: RayError, words: str
):
    with pytest.raises(ModelError, match=words) as raised:
        result_of(error, "finished runs stay")
    told = str(raised.value)
    assert "finished runs stay. Where memory is short, let fewer run at once" in told and "\n" not in told
    assert raised.value.__suppress_context__


def test_a_bug_in_a_task_keeps_its_traceback(cancelled: list[object]):
    with pytest.raises(ZeroDivisionError) as raised:
        result_of(of_task(ZeroDivisionError("by zero")), "")
    assert isinstance(raised.value, RayTaskError)
