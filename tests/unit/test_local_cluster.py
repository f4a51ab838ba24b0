"""The cluster of one machine, as far as it goes without a process; and pools for clusters that grow."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from cluster.local_cluster import CPU_NODE, GPU_NODE, LocalCluster, LocalClusterConfig, autoscaling_layout
from system.backbones.runtime import LOGICAL_GPUS, choose_runtime
from system.errors import ConfigError
from system.pipelines import resources
from system.pipelines.config import PoolConfig
from system.pipelines.ray_environment import set_ray_environment
from system.pipelines.resources import size_pool


@pytest.fixture
def short_folder() -> Path:
    return Path("/tmp") / f"nm-test-{os.getpid()}"


def test_layout_starts_without_workers_and_bounds_each_kind() -> None:
    layout = autoscaling_layout(LocalClusterConfig(cpu_nodes=3, gpu_nodes=2, cpus=2, idle_s=30), "10.0.0.1:6400")
    types = layout["available_node_types"]
    assert {name: kind["max_workers"] for name, kind in types.items()} == {"ray.head.default": 0, "cpu": 3, "gpu": 2}
    assert all(kind["min_workers"] == 0 for kind in types.values())
    assert types["ray.head.default"]["resources"] == {"CPU": 0}
    assert types[GPU_NODE]["resources"]["GPU"] == 1 and "GPU" not in types[CPU_NODE]["resources"]
    assert layout["max_workers"] == 5 and layout["idle_timeout_minutes"] == 0.5


def test_layout_is_accepted_by_the_autoscaler() -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    layout = autoscaling_layout(LocalClusterConfig(cpu_nodes=3, gpu_nodes=0), "10.0.0.1:6400")
    kinds = AutoscalingConfig(layout, skip_content_hash=True).get_node_type_configs()
    assert kinds is not None and kinds[CPU_NODE].max_worker_nodes == 3 and GPU_NODE not in kinds


def test_folder_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 40 bytes"):
        LocalCluster(tmp_path / ("x" * 40))


def test_taken_port_is_named_with_its_option(short_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken.*--dashboard-port"):
            LocalCluster(short_folder).start(LocalClusterConfig(port=_free_port(), dashboard_port=port))
    assert not short_folder.exists()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def test_no_cluster_is_said_with_what_starts_one(short_folder: Path) -> None:
    cluster = LocalCluster(short_folder)
    with pytest.raises(ConfigError, match=r"python -m cluster\.local start"):
        cluster.driver_env()
    assert cluster.stop() == 0


def _pretend_that_it_runs(folder: Path, ray: str, created_s: float) -> None:
    facts = {"pid": os.getpid(), "created_s": created_s, "address": "127.0.0.1:1", "ray": ray, "dashboard": None}
    folder.mkdir(exist_ok=True)
    (folder / "cluster.json").write_text(json.dumps(facts))


@pytest.fixture
def running_folder(tmp_path_factory: pytest.TempPathFactory, short_folder: Path):
    yield short_folder
    (short_folder / "cluster.json").unlink(missing_ok=True)
    short_folder.rmdir()


def test_head_of_another_ray_is_named(running_folder: Path) -> None:
    _pretend_that_it_runs(running_folder, "2.9.3", psutil.Process().create_time())
    with pytest.raises(ConfigError, match=r"is Ray 2\.9\.3, this is Ray"):
        LocalCluster(running_folder).driver_env()


def test_pid_that_another_process_got_is_no_cluster(running_folder: Path) -> None:
    _pretend_that_it_runs(running_folder, "2.60.0", psutil.Process().create_time() - 1000)
    with pytest.raises(ConfigError, match="no cluster runs"):
        LocalCluster(running_folder).driver_env()


def test_logical_gpu_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOGICAL_GPUS, "1")
    assert choose_runtime(2, use_gpu=True).device == "cpu"


def test_pool_of_a_cluster_without_nodes_grows_as_far_as_there_is_work() -> None:
    config = PoolConfig(max_actors=100, forward_scenes=8)
    pool = size_pool(config, cpus=0, gpus=0, scenes=33)
    assert (pool.actors, pool.max_actors) == (1, 5)
    assert size_pool(config, cpus=0, gpus=0, scenes=10_000).max_actors == 100


def test_growing_pool_asks_for_no_more_cpus_than_its_actors_and_their_reading_take() -> None:
    assert size_pool(PoolConfig(max_actors=6), cpus=0, gpus=0, scenes=1000).most_cpus == 8
    assert size_pool(PoolConfig(), cpus=4, gpus=0, scenes=1000).most_cpus == float("inf")


def test_reading_for_gpus_asks_for_cpus_with_a_bound_and_uses_all_that_are_there() -> None:
    config = PoolConfig(gpu=True, actors=4)  # as in cluster/kuberay/overlays/aws/nightly.toml
    assert size_pool(config, cpus=0, gpus=0, scenes=10_000).most_cpus == 4 * (1 + 8)
    assert size_pool(config, cpus=96, gpus=4, scenes=10_000).most_cpus == 96
    more = config.model_copy(update={"reading_cpus_per_gpu": 24})
    assert size_pool(more, cpus=0, gpus=0, scenes=10_000).most_cpus == 4 * (1 + 24)


def test_pool_that_was_not_told_to_grow_keeps_its_size() -> None:
    pool = size_pool(PoolConfig(), cpus=4, gpus=0, scenes=1000)
    assert pool.actors == 3 and pool.max_actors is None


def test_gpus_are_asked_for_where_there_are_none_yet_but_no_more_than_have_work() -> None:
    pool = size_pool(PoolConfig(gpu=True, actors=16, forward_scenes=8), cpus=0, gpus=0, scenes=20)
    assert (pool.actors, pool.gpus_per_actor, pool.max_actors) == (3, 1.0, None)


def test_pool_that_nodes_with_gpus_are_still_to_come_for_is_not_held_against_the_cpus_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = PoolConfig(gpu=True, actors=8)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert size_pool(config, cpus=8, gpus=1).actors == 8
    with pytest.raises(ConfigError, match="take all of the cluster's 8 CPUs"):
        size_pool(config, cpus=8, gpus=8)
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ConfigError, match="take all of the cluster's 8 CPUs"):
        size_pool(config, cpus=8, gpus=1)


def test_nothing_but_connecting_starts_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_ADDRESS": "10.0.0.1:6379"})
    set_ray_environment()
    assert os.environ == {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_ENABLE_AUTO_CONNECT": "0"}


def test_cpu_pool_is_kept_off_gpus_where_told_so() -> None:
    assert size_pool(PoolConfig(gpu=False), cpus=4, gpus=2).gpus_per_actor == 0


def test_bounds_of_a_pool_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_actors 2 is less than actors 3"):
        PoolConfig.parse({"actors": 3, "max_actors": 2}, "options")
    with pytest.raises(ConfigError, match="a pool with GPUs does not grow"):
        PoolConfig.parse({"gpu": True, "max_actors": 2}, "options")


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.3\nThis process was started with:"),
        ConnectionError("Could not find any running Ray instance."),
    ],
)
def test_head_that_cannot_be_joined_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(resources.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(resources.ray, "init", Mock(side_effect=fault))
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS 10\.0\.0\.1:6379: (Version mismatch.*2\.9\.3|Could not)"):
        resources.connect_to_ray()
