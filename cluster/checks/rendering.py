"""Overlays as the API server would get them, by the real kustomize."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from system.errors import ConfigError


def kustomize_command() -> list[str] | None:
    """`kubectl kustomize` (1.27 or newer) or `kustomize build`, whichever is there; None where neither is."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return None


def render(folder: Path) -> list[dict[str, Any]]:
    """The objects of one kustomization, in its order.

    Raises:
        ConfigError: kustomize is missing, or refuses the folder; its last words are in the message.
    """
    command = kustomize_command()
    if command is None:
        raise ConfigError("manifests are rendered by kubectl (1.27 or newer) or kustomize: install one of them")
    done = subprocess.run(  # noqa: S603  (a fixed command on a folder of this repository)
        [*command, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise ConfigError(f"{folder} does not render: {done.stderr.strip()[-600:]}")
    return [manifest for manifest in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if manifest]
