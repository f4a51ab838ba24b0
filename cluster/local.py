"""A cluster on this machine that grows and shrinks, to see how mining does on one."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from cluster.local_cluster import LocalCluster, LocalClusterConfig
from system.report.console import exit_with_code, print_figures

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

_DEFAULTS = LocalClusterConfig()
Folder = Annotated[
    Path, typer.Option(help="Where Ray keeps its logs and sockets; one cluster a folder. At most 40 bytes long.")
]
_FOLDER = Path(tempfile.gettempdir()) / f"nightminer-{os.getuid()}"


@app.command()
def start(
    folder: Folder = _FOLDER,
    port: Annotated[int, typer.Option(help="Where drivers connect.")] = _DEFAULTS.port,
    dashboard_port: Annotated[int, typer.Option(help="Of Ray's dashboard; 0: none.")] = _DEFAULTS.dashboard_port,
    cpu_nodes: Annotated[int, typer.Option(help="At most so many nodes without a GPU.")] = _DEFAULTS.cpu_nodes,
    gpu_nodes: Annotated[int, typer.Option(help="At most so many with a logical GPU.")] = _DEFAULTS.gpu_nodes,
    cpus: Annotated[int, typer.Option(help="Logical CPUs of a node.")] = _DEFAULTS.cpus,
    idle_s: Annotated[float, typer.Option(help="A node without work ends after so many seconds.")] = _DEFAULTS.idle_s,
    object_store_mb: Annotated[int, typer.Option(help="Shared memory of a node.")] = _DEFAULTS.object_store_mb,
) -> None:
    """Start a head without workers. Exit codes: 0 started; 1 the head did not come up; 2 a wrong option, or it runs."""
    with exit_with_code():
        config = LocalClusterConfig.parse(
            {
                "port": port,
                "dashboard_port": dashboard_port,
                "cpu_nodes": cpu_nodes,
                "gpu_nodes": gpu_nodes,
                "cpus": cpus,
                "idle_s": idle_s,
                "object_store_mb": object_store_mb,
            },
            "options",
        )
        cluster = LocalCluster(folder)
        cluster.start(config)
        _print_exports(cluster)
        print_figures({"address": cluster.address, "dashboard": cluster.dashboard, "folder": str(folder)})


@app.command()
def env(folder: Folder = _FOLDER) -> None:
    """Print what a job needs in its environment: `eval "$(python -m cluster.local env)"`."""
    with exit_with_code():
        _print_exports(LocalCluster(folder))


@app.command()
def status(
    folder: Folder = _FOLDER,
    watch: Annotated[bool, typer.Option("--watch", help="A line whenever nodes come or go, until Ctrl-C.")] = False,
) -> None:
    """Say what nodes there are and what is asked for."""
    with exit_with_code():
        cluster, shown = LocalCluster(folder), None
        while watch:
            figures = _figures(cluster)
            if figures != shown:
                print(f"{time.strftime('%H:%M:%S')}  {json.dumps(figures)}", flush=True)
                shown = figures
            time.sleep(1)
        print(cluster.status())
        print_figures(_figures(cluster))


@app.command()
def stop(folder: Folder = _FOLDER) -> None:
    """End every process of the cluster. It is no error if there is none."""
    with exit_with_code():
        print_figures({"processes_ended": LocalCluster(folder).stop()})


def _figures(cluster: LocalCluster) -> dict[str, dict[str, int]]:
    nodes = cluster.nodes()
    alive = Counter(node.kind for node in nodes if node.state != "DEAD")
    return {"nodes": dict(alive), "ever_started": dict(Counter(node.kind for node in nodes))}


def _print_exports(cluster: LocalCluster) -> None:
    for name, value in cluster.driver_env().items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    app()
