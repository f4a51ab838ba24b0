"""What Ray Serve reads from the environment. Free of Ray, which reads it when it is imported and when a node starts.

On a cluster, start the head with these; `jobs/serve_store.py` sets them for its own.
"""

from __future__ import annotations

import os

RAY_SERVE_ENVIRONMENT = {
    # A client whose replica died is asked to come again; without it the client sees a bare 500.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy_guard.middlewares",
    # A proxy that takes longer than this to import is started anew; Ray's five seconds never end on a busy machine.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "240",
    # Ray runs its workers at niceness 15, behind everything else of the machine; somebody waits for these.
    "RAY_worker_niceness": "0",
}


def set_serve_environment() -> None:
    """What the user set stays. Call before Ray is imported."""
    for name, value in RAY_SERVE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
