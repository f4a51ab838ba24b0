"""What a launch refuses before Ray starts, and what is left of Ray Serve when our server ends. No Ray is started."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType, SimpleNamespace
from unittest.mock import Mock

import pytest

from serve.settings import LaunchConfig
from system.errors import ConfigError, NightminerError
from tests.benchmarks.serving import make_detector


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, in Ray's own schemas
        return importlib.import_module("serve.launch")


@pytest.mark.parametrize(
    ("is_there", "others", "ended"),
    [(True, [], "delete"), (False, ["theirs"], "delete"), (False, [], "shutdown")],
    ids=["theirs was there before", "others came meanwhile", "ours alone"],
)
def test_what_others_serve_on_the_same_ray_goes_on(tmp_path, monkeypatch, launch, is_there, others, ended):
    served: list[str] = []
    asked: list[str] = []
    built: dict[str, object] = {}

    def status() -> SimpleNamespace:
        return SimpleNamespace(proxies={"node": 1} if is_there or served else {}, applications=dict.fromkeys(served))

    def delete(name: str) -> None:
        asked.append("delete")
        served.remove(name)

    def shutdown() -> None:
        asked.append("shutdown")
        served.clear()

    def run(application, name: str, **_) -> None:
        served.extend([name, *others])

    fake = SimpleNamespace(status=status, delete=delete, shutdown=shutdown, run=run)
    monkeypatch.setattr(launch, "serve", fake)
    monkeypatch.setattr(launch, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(launch, "build", built.update)
    for name in ("connect_to_ray", "_start_proxy", "_wait_until_ready"):
        monkeypatch.setattr(launch, name, lambda *_: None)
    monkeypatch.chdir(tmp_path)
    config = LaunchConfig(store="store", audit_log="audit.jsonl")
    with launch.launched(config), pytest.raises(ConfigError, match="already"), launch.launched(config):
        pass
    assert asked == [ended] and served == others
    there = {name: str(tmp_path / name) for name in ("store", "audit.jsonl")}
    assert {"store": built["store"], "audit.jsonl": built["audit_log"]} == there, "replicas run in other folders"


@pytest.mark.parametrize(
    ("option", "told"),
    [("token_file", "jobs/make_token.py makes one"), ("detector", "No such file"), ("audit_log", "appended to")],
)
def test_a_mistyped_file_is_told_before_ray_starts(tmp_path, monkeypatch, launch, option, told):
    def start() -> None:
        raise AssertionError("Ray starts")

    monkeypatch.setattr(launch, "connect_to_ray", start)
    mistyped = tmp_path / "nowhere" / "name"
    config = LaunchConfig(store=str(tmp_path / "store"), tower="packaged", **{option: str(mistyped)})
    with pytest.raises(NightminerError, match=f"{mistyped}.*{told}"), launch.launched(config):
        pass


def test_a_damaged_detector_is_told_before_ray_starts(tmp_path, monkeypatch, launch):
    monkeypatch.setattr(launch, "connect_to_ray", Mock(side_effect=AssertionError("Ray starts")))
    folder = make_detector(tmp_path / "detector", "test_vit")
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    config = LaunchConfig(store=str(tmp_path / "store"), tower="packaged", detector=str(folder))
    with pytest.raises(NightminerError, match=str(weights)), launch.launched(config):
        pass
