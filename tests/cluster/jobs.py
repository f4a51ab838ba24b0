"""Run jobs as their users do and read the figures from their last line."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a job left: its exit code, its two streams, and the JSON of its last line where there is one."""

    code: int
    stdout: str
    stderr: str

    @property
    def figures(self) -> dict[str, Any]:
        assert self.stdout.strip(), self.stderr
        return json.loads(self.stdout.strip().splitlines()[-1])


def run_job(job: str, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = 240) -> Done:
    """`python jobs/<job>.py arguments...` from the root of the checkout."""
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def call_job(job: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
    """The same in this process, for jobs that another test runs as a process.

    It spares their start, and stays connected to the head, whose workers then go on with the next call.
    """
    module = importlib.import_module(f"jobs.{job}")
    with (
        mock.patch.dict(os.environ, env or {}),
        mock.patch.object(module, "leave_ray", create=True),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of the libraries, as in a process of its own
        on_sigterm = signal.getsignal(signal.SIGTERM)
        done = CliRunner().invoke(module.app, list(map(str, arguments)))
        signal.signal(signal.SIGTERM, on_sigterm)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)
