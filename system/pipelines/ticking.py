"""Wait for what comes, and look at the clock meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import Any, TypeVar

Item = TypeVar("Item")

# An iterator that waits for what never comes cannot be closed; its thread ends with the process.
_CLOSE_S = 5.0
_END = object()


def with_ticks(items: Generator[Item, Any, Any], tick_s: float) -> Generator[Item | None, None, None]:
    """Yield what a generator yields, and None whenever nothing has come for `tick_s`.

    A thread of its own draws the items, each when it is asked for and none ahead. Closing this closes the generator
    there, at once or, where it is waiting, as soon as something comes; that is waited for a few seconds.

    Raises:
        whatever the generator raises.
    """
    wanted, drawn = threading.Semaphore(0), queue.SimpleQueue[Any]()
    is_closed = threading.Event()

    def draw() -> None:
        while True:
            wanted.acquire()
            if is_closed.is_set():
                items.close()
                return
            try:
                drawn.put((next(items, _END), None))
            except BaseException as error:  # noqa: BLE001 - raised where the items are taken
                drawn.put((_END, error))
                return

    thread = threading.Thread(target=draw, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            wanted.release()
            while True:
                try:
                    item, error = drawn.get(timeout=tick_s)
                    break
                except queue.Empty:
                    yield None
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        is_closed.set()
        wanted.release()
        thread.join(_CLOSE_S)
