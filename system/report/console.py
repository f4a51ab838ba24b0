"""How a job talks: progress on stderr, one JSON object as the last line of stdout, one line for an error.

NIGHTMINER_LOGS=json makes each line of stderr a JSON object too (`log_lines.py`).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from system.errors import ConfigError, NightminerError
from system.report.log_lines import LOGGER, LineHandler, forget_log_ids, json_line, wants_json

_LOG_EVERY_S = 10.0


@contextmanager
def exit_with_code() -> Iterator[None]:
    """Our own errors become one line on stderr and their exit code; anything else is a bug and keeps its traceback."""
    try:
        yield
    except NightminerError as error:
        print(_error_line(error), file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def _error_line(error: NightminerError) -> str:
    try:
        if wants_json():
            return json_line(str(error), "error", exit_code=error.exit_code)
    except ConfigError:
        pass  # what is wrong with the format is perhaps the very error
    return f"error: {error}"


def print_figures(figures: Mapping[str, Any]) -> None:
    """The figures as one JSON object on one line, the last of stdout."""
    sys.stdout.flush()
    print(json.dumps(figures, default=str), flush=True)


def stdout_console() -> Console:
    """Where tables go; a log is given room for the words, a terminal decides by itself."""
    return Console() if Console().is_terminal else Console(width=160)


class ConsoleProgress:
    """A bar on a terminal, a plain line every few seconds in a log. Context manager.

    Raises:
        ConfigError: NIGHTMINER_LOGS asks for something else than text or JSON.
    """

    def __init__(self, doing: str = "mining", what: str = "scenes") -> None:
        self._is_json, self._handler = wants_json(), LineHandler(self.note)
        self._console = Console(stderr=True)
        self._doing, self._what = doing, what
        self._bar: Progress | None = None
        self._done, self._total, self._bad, self._images = 0, 0, 0, 0
        self._started_s = self._printed_s = time.monotonic()

    def __enter__(self) -> ConsoleProgress:
        forget_log_ids()
        LOGGER.setLevel(logging.INFO)
        LOGGER.addHandler(self._handler)
        if self._console.is_terminal and not self._is_json:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("starting", total=None, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        LOGGER.removeHandler(self._handler)
        if self._bar is not None:
            self._bar.stop()

    def note(self, line: str, level: str = "info", **ids: object) -> None:
        """One line that stays. level, ids: fields of its JSON."""
        if self._is_json:
            print(json_line(line, level, **ids), file=sys.stderr, flush=True)
        elif self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def phase(self, name: str) -> None:
        """What happens now."""
        if self._bar is not None:
            self._bar.update(self._task, description=name)
        else:
            after_s = time.monotonic() - self._started_s
            self.note(name if self._is_json else f"{after_s:6.1f} s  {name}", after_s=round(after_s, 1))

    def expect(self, total: int) -> None:
        """How many are to be done."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def advanced(self, committed: int, quarantined: int, images: int) -> None:
        """So many more are done."""
        self._done += committed
        self._bad += quarantined
        self._images += images
        if self._bar is not None:
            note = f"{self._images} pictures" + (f", {self._bad} quarantined" if self._bad else "")
            self._bar.update(self._task, description=self._doing, advance=committed + quarantined, note=note)
        elif time.monotonic() - self._printed_s >= _LOG_EVERY_S:
            self._printed_s = time.monotonic()
            self.phase(
                f"{self._doing}: {self._done} of {self._total} {self._what}, {self._images} pictures"
                + (f", {self._bad} quarantined" if self._bad else "")
            )

    def reached(self, committed: int, quarantined: int, images: int) -> None:
        """So many are done in all, for whoever keeps count already."""
        self.advanced(committed - self._done, quarantined - self._bad, images - self._images)
