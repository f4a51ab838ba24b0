"""A Ray cluster of this machine's own that grows and shrinks: its configuration, its processes, its nodes.

The head has no CPUs. Autoscaler v2 starts and ends worker nodes as it would on a cloud; a node here is a raylet and its
workers. GPUs are logical: whoever is given one computes on the CPU (`system.backbones.runtime`).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import Field

from system.backbones.runtime import LOGICAL_GPUS
from system.config import FrozenConfig
from system.errors import ConfigError, NightminerError

CPU_NODE, GPU_NODE = "cpu", "gpu"
# Ray's provider of pretended nodes knows the head by this name and id.
_HEAD_TYPE, _HEAD_ID = "ray.head.default", "f" * 51 + "00000"
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
# Every process of the cluster inherits it, and is found by it when the cluster is stopped.
_MARK = "NIGHTMINER_LOCAL_CLUSTER"
# A socket's path has at most 107 bytes, of which Ray's names take some 65.
_LONGEST_FOLDER = 40


class LocalClusterConfig(FrozenConfig):
    """Sizes of the cluster.

    port: of the head's GCS, where drivers connect. dashboard_port: 0 for no dashboard.
    cpu_nodes, gpu_nodes: at most so many. cpus: of each node, logical. A GPU node has one logical GPU.
    idle_s: a node that has nothing to do for so long is ended. object_store_mb: of each node.
    start_s: how long the head may take to answer.
    """

    port: int = Field(default=6379, ge=1024, le=65535)
    dashboard_port: int = Field(default=8265, ge=0, le=65535)
    cpu_nodes: int = Field(default=4, ge=1, le=50)
    gpu_nodes: int = Field(default=1, ge=0, le=50)
    cpus: int = Field(default=2, ge=1, le=256)
    idle_s: float = Field(default=20.0, ge=1)
    object_store_mb: int = Field(default=256, ge=80)
    start_s: float = Field(default=120.0, gt=0)


@dataclass(frozen=True)
class LocalNode:
    """A worker node that was ever started. kind: CPU_NODE or GPU_NODE. state: ALIVE, DRAINING or DEAD."""

    node_id: str
    kind: str
    state: str


class LocalCluster:
    """The cluster whose files lie in a folder, running or not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        if len(os.fsencode(self._folder)) > _LONGEST_FOLDER:
            raise ConfigError(
                f"{self._folder}: Ray's sockets need a folder whose path has at most {_LONGEST_FOLDER} bytes; "
                "choose a shorter --folder"
            )

    def start(self, config: LocalClusterConfig) -> None:
        """Start the head, and wait until it answers.

        Raises:
            ConfigError: a cluster runs in this folder already, or a port is taken.
            NightminerError: the head ended or did not answer in time.
        """
        import ray

        if self._head() is not None:
            raise ConfigError(f"a cluster already runs in {self._folder} at {self.address}; stop it first")
        if left := self._processes():
            raise ConfigError(f"{len(left)} processes of an earlier cluster in {self._folder} still run; stop it first")
        for option, port in (("--port", config.port), ("--dashboard-port", config.dashboard_port)):
            if port and not _is_free(port):
                raise ConfigError(f"port {port} is taken, perhaps by another Ray cluster; choose another {option}")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = self._folder / "token"
        with open(token, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secrets.token_hex(32))
        address = f"{ray.util.get_node_ip_address()}:{config.port}"
        layout = self._folder / "autoscaling.yaml"
        layout.write_text(yaml.safe_dump(autoscaling_layout(config, address)), encoding="utf-8")
        with (self._folder / "head.log").open("wb") as log:
            head = subprocess.Popen(  # noqa: S603  (Ray, of this environment)
                self._head_command(config, layout),
                env=self._head_env(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started_s = psutil.Process(head.pid).create_time()
        facts = {"pid": head.pid, "created_s": started_s, "address": address, "ray": ray.__version__}
        facts["dashboard"] = f"http://127.0.0.1:{config.dashboard_port}" if config.dashboard_port else None
        self._facts_file.write_text(json.dumps(facts), encoding="utf-8")
        try:
            self._wait(head, config.start_s)
        except BaseException:  # Ctrl-C too leaves nothing behind
            self.stop()
            raise

    def _wait(self, head: subprocess.Popen[bytes], seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while not self._answers():
            if head.poll() is not None or time.monotonic() > deadline_s:
                said = (self._folder / "head.log").read_text(encoding="utf-8", errors="replace")[-2000:]
                ended = "ended" if head.poll() is not None else f"did not answer within {seconds:.0f} s"
                raise NightminerError(f"the head {ended}; the end of {self._folder / 'head.log'}:\n{said}")
            time.sleep(0.5)

    def stop(self) -> int:
        """End every process of the cluster; returns how many there were. Tables and logs elsewhere stay."""
        found = self._processes()
        head = self._head()
        if head is not None:  # it ends what it started, and says so in its log
            with suppress(psutil.NoSuchProcess):
                head.terminate()
            psutil.wait_procs([head], timeout=20)
        left = self._processes()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=20)
        self._facts_file.unlink(missing_ok=True)
        return len(found)

    @property
    def address(self) -> str:
        """Of the head's GCS. Raises ConfigError: no cluster runs here, or one of another Ray."""
        facts = self._facts()
        if facts is None or self._head() is None:
            raise ConfigError(f"no cluster runs in {self._folder}; `python -m cluster.local start` starts one")
        import ray

        if facts["ray"] != ray.__version__:
            raise ConfigError(
                f"the head in {self._folder} is Ray {facts['ray']}, this is Ray {ray.__version__}: stop it with the "
                "environment that started it, or use that environment"
            )
        return str(facts["address"])

    @property
    def dashboard(self) -> str | None:
        """Where the dashboard is, if it was asked for."""
        facts = self._facts()
        return None if facts is None else facts["dashboard"]

    def driver_env(self) -> dict[str, str]:
        """What a job needs in its environment to run on this cluster."""
        env = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token"}
        return env | {"RAY_AUTH_TOKEN_PATH": str(self._folder / "token")}

    def nodes(self) -> list[LocalNode]:
        """Every worker node that the cluster ever started, in the order of their start."""
        from ray.exceptions import RayError

        try:
            gcs = self._gcs()
            reply, draining = gcs.get_all_node_info(), gcs.get_draining_nodes(timeout=10)
        except (RayError, RuntimeError) as error:
            raise NightminerError(f"the head in {self._folder} does not answer: {error}") from error
        found = []
        for node in sorted(reply.values(), key=lambda node: node.start_time_ms):
            if node.node_type_name in (CPU_NODE, GPU_NODE):
                node_id = node.node_id.hex()
                state = "DEAD" if node.state else "DRAINING" if node_id in draining else "ALIVE"
                found.append(LocalNode(node_id, node.node_type_name, state))
        return found

    def status(self) -> str:
        """What the autoscaler says, as `ray status` prints it."""
        from ray.autoscaler.v2.sdk import get_cluster_status
        from ray.autoscaler.v2.utils import ClusterStatusFormatter

        address = self.address
        self._authenticate()
        return str(ClusterStatusFormatter.format(get_cluster_status(address), verbose=False))

    def raylet(self, node_id: str) -> psutil.Process | None:
        """The process that is a node, for whoever wants it to die; None if there is none (any more)."""
        for process in self._processes():
            with suppress(psutil.Error):
                if process.name() == "raylet" and process.environ().get("RAY_CLOUD_INSTANCE_ID") == node_id:
                    return process
        return None

    def workers(self, title: str) -> int:
        """How many of the cluster's processes are workers with this word in their title."""
        count = 0
        for process in self._processes():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                count += line.startswith("ray::") and title in line
        return count

    def drain(self, node_id: str, seconds: int) -> None:
        """Tell a node that it will go in so many seconds, as a cloud tells one on spot.

        Raises:
            NightminerError: Ray refused.
        """
        command = [_ray(), "drain-node", "--address", self.address, "--node-id", node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
        command += ["--deadline-remaining-seconds", str(seconds)]
        env = {**os.environ, **self.driver_env()}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise NightminerError(f"node {node_id} was not drained: {done.stderr.strip()[-500:]}")

    @property
    def _facts_file(self) -> Path:
        return self._folder / "cluster.json"

    def _facts(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._facts_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _head(self) -> psutil.Process | None:
        facts = self._facts()
        if facts is None:
            return None
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(facts["pid"])
            is_ours = abs(process.create_time() - facts["created_s"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
            return process if is_ours else None
        return None

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it ended, or is another user's
                if process.environ().get(_MARK) == str(self._folder):
                    found.append(process)
        return found

    def _head_env(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._folder / "token")}
        env |= {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        env |= {"RAY_CLOUD_INSTANCE_ID": _HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID}
        return env | {_MARK: str(self._folder), LOGICAL_GPUS: "1"}

    def _head_command(self, config: LocalClusterConfig, layout: Path) -> list[str]:
        command = [_ray(), "start", "--head", "--block", "--num-cpus=0", "--num-gpus=0", "--disable-usage-stats"]
        command += [f"--port={config.port}", f"--autoscaling-config={layout}", f"--temp-dir={self._folder}"]
        command += [f"--object-store-memory={config.object_store_mb * 1024**2}"]
        # Ray's own choices for these may be those of another cluster on this machine.
        command += [f"--ray-client-server-port={_free_port()}", f"--dashboard-agent-listen-port={_free_port()}"]
        if config.dashboard_port:
            return [*command, f"--dashboard-port={config.dashboard_port}"]
        return [*command, "--include-dashboard=false"]

    def _authenticate(self) -> None:
        from ray._raylet import AuthenticationTokenLoader, Config

        os.environ.update({k: v for k, v in self.driver_env().items() if k != "RAY_ADDRESS"})
        Config.initialize("")  # Ray has read them when it was imported
        AuthenticationTokenLoader.instance().reset_cache()

    def _gcs(self) -> Any:
        from ray._raylet import GcsClient

        address = self.address
        self._authenticate()
        return GcsClient(address=address)

    def _answers(self) -> bool:
        from ray.exceptions import RayError

        if self._head() is None:
            return False
        host, port = self.address.rsplit(":", 1)
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) != 0:
                return False
        try:
            gcs = self._gcs()
            # The autoscaler is there too once it has said where its metrics are.
            return bool(gcs.get_all_node_info()) and bool(
                gcs.internal_kv_get(b"AutoscalerMetricsAddress", None, timeout=5)
            )
        except (RayError, RuntimeError):
            return False


def autoscaling_layout(config: LocalClusterConfig, address: str) -> dict[str, Any]:
    """What `ray start --autoscaling-config` reads."""
    store = config.object_store_mb * 1024**2

    def kind(resources: dict[str, int], most: int) -> dict[str, Any]:
        return {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most}

    types = {_HEAD_TYPE: kind({"CPU": 0}, 0)}
    types[CPU_NODE] = kind({"CPU": config.cpus, "object_store_memory": store}, config.cpu_nodes)
    if config.gpu_nodes:
        types[GPU_NODE] = kind({"CPU": config.cpus, "GPU": 1, "object_store_memory": store}, config.gpu_nodes)
    return {
        "cluster_name": "nightminer-local",
        "max_workers": config.cpu_nodes + config.gpu_nodes,
        "idle_timeout_minutes": config.idle_s / 60,
        "provider": {
            "type": "external",
            "module": _PROVIDER,
            "launch_multiple": True,
            "head_node_id": _HEAD_ID,
            "gcs_address": address,
        },
        "available_node_types": types,
        "head_node_type": _HEAD_TYPE,
        # Empty, but Ray asks for them: it fills in what a cloud's configuration leaves out, not what this one does.
        **{name: [] for name in _COMMANDS},
        "file_mounts": {},
        "cluster_synced_files": [],
        "auth": {},
    }


def _ray() -> str:
    return str(Path(sys.executable).with_name("ray"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
