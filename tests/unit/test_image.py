"""The image: what its Dockerfile says, and that every package in it has its version in a file."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.checks.__main__ import CLUSTER, dockerfile_findings
from system.store import runs

ROOT = CLUSTER.parent


def _pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


PINS = _pins(ROOT / "constraints.txt")
IMAGE_PINS = _pins(CLUSTER / "constraints-image.txt")


def test_hadolint_has_nothing_to_say():
    assert dockerfile_findings(CLUSTER / "Dockerfile") == []


@pytest.mark.parametrize("line", ["FROM python:latest", "RUN cd /tmp && apt-get install wget", "COPYY a b"])
def test_hadolint_finds_a_fault(tmp_path: Path, line: str):
    spoilt = tmp_path / "Dockerfile"
    spoilt.write_text((CLUSTER / "Dockerfile").read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert dockerfile_findings(spoilt) != []


def test_every_target_ends_as_a_user_who_is_not_root():
    stages = re.split(r"^FROM ", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    targets = {stage.split("\n", 1)[0].rpartition(" ")[2]: stage for stage in stages}
    for name in ("cpu", "cuda", "vm"):
        assert re.findall(r"^USER (.*)$", targets[name], flags=re.MULTILINE)[-1] == "1000:1000", name


def test_what_the_image_copies_is_there_and_not_ignored():
    dockerfile = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    kept = re.findall(r"^!(.*)$", (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, flags=re.MULTILINE)
    for source in [word for line in copied for word in line.split() if word != "."]:
        assert (ROOT / source).exists() and source.split("/")[0] in kept, source
    assert all((ROOT / name).exists() for name in kept)


def test_the_images_own_pins_repeat_none_of_the_constraints():
    assert not set(PINS) & set(IMAGE_PINS)


def test_every_package_of_the_image_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [wish for name in ("gcp", "vm") for wish in project["optional-dependencies"][name]]
    waiting = [Requirement(wish) for wish in project["dependencies"] + extras]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wish = waiting.pop()
        name = canonicalize_name(wish.name)
        key = (name, frozenset(wish.extras))
        if key in seen:
            continue
        seen.add(key)
        version = PINS.get(name) or IMAGE_PINS.get(name)
        assert version, f"{name} has no version in constraints.txt or cluster/constraints-image.txt"
        assert wish.specifier.contains(version, prereleases=True), f"{wish} does not admit {version}"
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            assert name in IMAGE_PINS, f"{name} is pinned for this environment, and not in it"
            continue
        for need in map(Requirement, needs):
            wanted = [{"extra": extra} for extra in (*wish.extras, "")]
            if need.marker is None or any(need.marker.evaluate(environment) for environment in wanted):
                waiting.append(need)
    assert len(seen) > 100


def test_a_run_in_an_image_knows_its_commit(monkeypatch: pytest.MonkeyPatch):
    def no_git(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(runs.subprocess, "run", no_git)
    monkeypatch.setenv("NIGHTMINER_COMMIT", "0123abc")
    assert runs.git_commit() == "0123abc"
    monkeypatch.delenv("NIGHTMINER_COMMIT")
    assert runs.git_commit() == "unknown"
    assert "ENV NIGHTMINER_COMMIT=$COMMIT" in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
