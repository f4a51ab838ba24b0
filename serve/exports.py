"""Sets on their way out: one at a time of each token, with an end of their own, and none that nobody waits for."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable
from typing import IO

from starlette.concurrency import run_in_threadpool

from serve.problems import ProblemError, busy
from serve.settings import Limits
from system.errors import StoppedError

Check = Callable[[], None]
# An archive of this many bytes is kept in memory, a larger one on disk.
_SPOOLED = 8 << 20
# How often it is asked whether the client still waits.
_LOOK_EVERY_S = 0.5


class Exports:
    """Of one application."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.busy: set[str] = set()

    async def write(
        self, token: str, write: Callable[[IO[bytes], Check], None], is_gone: Callable[[], Awaitable[bool]]
    ) -> IO[bytes]:
        """A file that `write` has filled, in a thread; the caller closes it.

        Args:
            write: calls what it is given beside the file once a scene, which raises where it shall end.
            is_gone: whether the client has left.
        Raises:
            ProblemError: 429, this token has an export under way; 413, it takes longer than an export may.
            StoppedError: the client is gone. Whatever `write` raises.
        """
        if token in self.busy:
            told = "this token has an export under way, which is what one may have; try again when it has ended"
            raise busy("too_many_exports", told, self._limits.retry_after_s, status=429)
        self.busy.add(token)
        shall_end = threading.Event()

        def check() -> None:
            if shall_end.is_set():
                raise StoppedError("nobody waits for this export any more")

        def work() -> IO[bytes]:
            file = tempfile.SpooledTemporaryFile(max_size=_SPOOLED)  # noqa: SIM115 - closed when it was sent
            try:
                write(file, check)
                check()
            except BaseException:
                file.close()
                raise
            return file

        task = asyncio.ensure_future(run_in_threadpool(work))
        task.add_done_callback(lambda done: self._ended(token, done))
        most_s = self._limits.export_timeout_s
        try:
            async with asyncio.timeout(most_s):
                while not (await asyncio.wait([task], timeout=_LOOK_EVERY_S))[0]:
                    if await is_gone():
                        raise StoppedError("the client is gone")
        except TimeoutError as error:
            told = f"not written within {most_s:g} s; export fewer scenes, or use jobs/export_scenes.py"
            raise ProblemError(413, "export_too_long", told) from error
        finally:
            if not task.done():
                shall_end.set()
        return task.result()

    def _ended(self, token: str, done: asyncio.Future[IO[bytes]]) -> None:
        self.busy.discard(token)
        if not done.cancelled():
            done.exception()  # that of one that nobody waits for is told to nobody
