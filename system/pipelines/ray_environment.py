"""What Ray reads from the environment, set on purpose. Free of Ray: it reads these when it is imported."""

from __future__ import annotations

import os
import sys


def set_ray_environment() -> None:
    """Settings for a cluster of this process's own; what the user set stays. Call before Ray is imported."""
    if os.environ.get("RAY_ADDRESS"):
        return  # a cluster that somebody else configured
    # Its ports take a token, so that nobody else on the machine can use the cluster.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def leave_ray() -> None:
    """Disconnect, where this process ever connected, so that nothing of Ray is printed after a job's last line."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
