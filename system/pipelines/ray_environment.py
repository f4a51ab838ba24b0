"""What Ray reads from the environment, set on purpose. Free of Ray: it reads these when it is imported."""

from __future__ import annotations

import os
import sys


def set_ray_environment() -> None:
    """Settings for a cluster of this process's own; what the user set stays. Call before Ray is imported.

    Whoever uses Ray connects first (`resources.connect_to_ray`): a call without a connection is an error, and starts no
    cluster. A thread of Ray Data's that outlives a stopped stream makes such calls.
    """
    # Workers that inherit it are connected before they run anything.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    if os.environ.get("RAY_ADDRESS"):
        return  # a cluster that somebody else configured
    # Its ports take a token, so that nobody else on the machine can use the cluster.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def leave_ray() -> None:
    """Disconnect, where this process ever connected, rather than while Python ends.

    A job that may have stopped a stream prints its figures first: what goes on in threads of Ray Data meets a
    connection that is gone.
    """
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
