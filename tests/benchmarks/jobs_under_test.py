"""Run a job as its user does: a process of its own, the figures from its last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_job(job: str, *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 3600) -> dict[str, Any]:
    """The JSON object that `jobs/<job>.py` prints last.

    Raises:
        SystemExit: the job failed; its stderr is shown.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"jobs/{job}.py exited with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])
