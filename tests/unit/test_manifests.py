"""What lies in `cluster/`: it renders, fits its schemas strictly, and keeps our rules; a fault in it is found."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.checks import __main__ as command
from cluster.checks.policy import SECRETS, policy_findings, selects
from cluster.checks.ray_schemas import launcher_findings, serve_findings
from cluster.checks.rendering import kustomize_command, render
from cluster.checks.schemas import load_custom_schemas, schema_findings
from system.errors import ConfigError

RAY = command.pinned("ray")
OVERLAYS = [path.name for path in command.overlays()]
Manifests = list[dict[str, Any]]


@cache
def _rendered(overlay: str) -> Manifests:
    return render(command.CLUSTER / "kuberay" / "overlays" / overlay)


@pytest.fixture
def rendered() -> Callable[[str], Manifests]:
    """Renders an overlay; a copy, to be spoilt at will. Skips, and says so, where there is no kustomize."""
    if kustomize_command() is None:
        pytest.skip("needs kubectl (1.27 or newer) or kustomize to render overlays")
    return lambda overlay: copy.deepcopy(_rendered(overlay))


@pytest.fixture(scope="module")
def kuberay() -> dict:
    """KubeRay's own schemas; skips, and says so, where they are not."""
    folder = os.environ.get(command.SCHEMAS)
    if not folder:
        pytest.skip(f"needs KubeRay 1.7.0's resource definitions: set {command.SCHEMAS} to their folder")
    return load_custom_schemas(Path(folder))


def of(manifests: Manifests, kind: str, name: str) -> dict[str, Any]:
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def at(value: Any, path: str) -> Any:
    """What lies at a dotted path."""
    for step in path.split("."):
        value = value[int(step) if isinstance(value, list) else step]
    return value


def test_the_overlays_are_those_the_readme_tells_of():
    assert OVERLAYS == ["aws", "dev", "embedded-gcs", "gcp", "raycronjob"]
    readme = (command.CLUSTER / "README.md").read_text(encoding="utf-8")
    missing = [word for word in [*OVERLAYS, *SECRETS] if f"`{word}`" not in readme]
    assert missing == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_keeps_kubernetes_schemas_and_our_rules(rendered, overlay: str):
    assert [str(finding) for finding in command.overlay_findings(overlay, rendered(overlay), None)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_keeps_kuberays_schemas(rendered, kuberay, overlay: str):
    manifests = rendered(overlay)
    assert sum(m["apiVersion"] == "ray.io/v1" for m in manifests) == 2
    assert [str(f) for m in manifests for f in schema_findings(overlay, m, kuberay)] == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "right", "wrong"),
    [
        ("NetworkPolicy", "https", "spec", "podSelector", "podSelecter"),
        ("CronJob", "nightly", "spec", "concurrencyPolicy", "concurencyPolicy"),
        ("PodDisruptionBudget", "server", "spec", "minAvailable", "minAvailble"),
        # Within a Ray Pod, where Kubernetes' schemas tell it without KubeRay's.
        ("RayJob", "nightly", "spec.rayClusterSpec.workerGroupSpecs.2.template.spec", "tolerations", "toleration"),
        ("RayService", "serve", "metadata", "labels", "label"),
    ],
)
def test_a_misspelt_field_is_found_at_its_place(rendered, kind: str, name: str, path: str, right: str, wrong: str):
    manifest = of(rendered("aws"), kind, name)
    parent = at(manifest, path)
    parent[wrong] = parent.pop(right)
    found = [str(finding) for finding in schema_findings("aws", manifest, None)]
    assert any(path in line and wrong in line for line in found), found


@pytest.mark.parametrize(
    ("kind", "name", "path", "right", "wrong"),
    [
        ("RayJob", "nightly", "spec", "backoffLimit", "backOffLimit"),
        ("RayJob", "nightly", "spec.rayClusterSpec.autoscalerOptions", "version", "versoin"),
        ("RayJob", "nightly", "spec.rayClusterSpec.workerGroupSpecs.0", "maxReplicas", "maxReplica"),
        ("RayService", "serve", "spec.rayClusterConfig", "gcsFaultToleranceOptions", "gcsFaultTolerance"),
        ("RayService", "serve", "spec.upgradeStrategy", "type", "kind"),
    ],
)
def test_a_misspelt_field_of_kuberay_is_found(
    rendered, kuberay, kind: str, name: str, path: str, right: str, wrong: str
):
    manifest = of(rendered("aws"), kind, name)
    parent = at(manifest, path)
    parent[wrong] = parent.pop(right)
    found = [str(finding) for finding in schema_findings("aws", manifest, kuberay)]
    assert any(path in line and wrong in line for line in found), found


def test_a_wrong_kind_or_value_of_kuberay_is_found(rendered, kuberay):
    manifest = of(rendered("aws"), "RayJob", "nightly")
    at(manifest, "spec.rayClusterSpec.autoscalerOptions")["version"] = "v3"
    assert "'v3' is not one of" in str(schema_findings("aws", manifest, kuberay)[0])
    assert "no RayNight in ray.io/v1" in str(schema_findings("aws", manifest | {"kind": "RayNight"}, kuberay)[0])
    assert "no Pud in v1" in str(schema_findings("aws", {"kind": "Pud", "apiVersion": "v1"}, None)[0])


def _drop(manifests: Manifests, kind: str, name: str) -> None:
    manifests.remove(of(manifests, kind, name))


HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"
GPU = "spec.rayClusterSpec.workerGroupSpecs.2"
SPOILT: dict[str, tuple[Callable[[Manifests], object], str]] = {
    "pod without security context": (
        lambda ms: at(of(ms, "RayJob", "nightly"), HEAD).pop("securityContext"),
        f"RayJob/nightly at {HEAD.removesuffix('.spec')}: securityContext must have runAsNonRoot",
    ),
    "root": (
        lambda ms: at(of(ms, "CronJob", "nightly"), "spec.jobTemplate.spec.template.spec.securityContext").update(
            runAsUser=0
        ),
        "runAsUser other than 0",
    ),
    "container without security context": (
        lambda ms: at(of(ms, "StatefulSet", "gcs-store"), "spec.template.spec.containers.0").pop("securityContext"),
        "readOnlyRootFilesystem must be true",
    ),
    "autoscaler without limits": (
        lambda ms: at(of(ms, "RayService", "serve"), "spec.rayClusterConfig.autoscalerOptions").pop("resources"),
        "autoscalerOptions: resources.limits.memory is missing",
    ),
    "first container without security": (
        lambda ms: at(of(ms, "RayJob", "nightly"), HEAD).update(initContainers=[{"name": "x", "image": "x:1"}]),
        "initContainers.0: securityContext.capabilities.drop must have ALL",
    ),
    "image of no version": (
        lambda ms: at(of(ms, "RayJob", "nightly"), f"{HEAD}.containers.0").update(image="host:5000/nightminer"),
        "names no version",
    ),
    "latest": (
        lambda ms: at(of(ms, "RayJob", "nightly"), f"{HEAD}.containers.0").update(image="nightminer:latest"),
        "names no version",
    ),
    "secret as text": (
        lambda ms: at(of(ms, "RayJob", "nightly"), f"{HEAD}.containers.0.env").append(
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}
        ),
        "env AWS_SECRET_ACCESS_KEY holds a secret as text",
    ),
    "secret shipped": (
        lambda ms: ms.append({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "gcs-store"}}),
        "secrets are referred to, never shipped",
    ),
    "unknown secret": (
        lambda ms: at(of(ms, "RayService", "serve"), "spec.rayClusterConfig.gcsFaultToleranceOptions").update(
            redisPassword={"valueFrom": {"secretKeyRef": {"name": "gcs-stor", "key": "password"}}}
        ),
        "Secret gcs-stor is not among those",
    ),
    "host path": (
        lambda ms: at(of(ms, "RayJob", "nightly"), f"{HEAD}.volumes").append({"name": "h", "hostPath": {"path": "/"}}),
        "volume h is a hostPath",
    ),
    "unbounded scratch": (
        lambda ms: at(of(ms, "RayJob", "nightly"), f"{HEAD}.volumes").append({"name": "s", "emptyDir": {}}),
        "emptyDir s has no sizeLimit",
    ),
    "no token": (
        lambda ms: at(of(ms, "RayService", "serve"), "spec.rayClusterConfig").pop("authOptions"),
        "authOptions.mode: must be token",
    ),
    "old autoscaler": (
        lambda ms: at(of(ms, "RayJob", "nightly"), "spec.rayClusterSpec.autoscalerOptions").update(version="v1"),
        "autoscalerOptions.version: must be v2",
    ),
    "restarting pod": (
        lambda ms: at(of(ms, "RayJob", "nightly"), HEAD).update(restartPolicy="Always"),
        "must be Never with autoscaler v2",
    ),
    "GPU that waits": (
        lambda ms: at(of(ms, "RayJob", "nightly"), GPU).update(minReplicas=1, replicas=1),
        "GPUs start at 0",
    ),
    "head that works": (
        lambda ms: at(of(ms, "RayJob", "nightly"), "spec.rayClusterSpec.headGroupSpec").update(rayStartParams={}),
        "a task that starves the head",
    ),
    "worker with the head's rights": (
        lambda ms: at(of(ms, "RayJob", "nightly"), f"{GPU}.template.spec").update(serviceAccountName="miner-head"),
        "must not share the head's account",
    ),
    "another Ray": (
        lambda ms: at(of(ms, "RayJob", "nightly"), "spec.rayClusterSpec").update(rayVersion="2.40.0"),
        f"is 2.40.0, constraints.txt has {RAY}",
    ),
    "serving that dies with its head": (
        lambda ms: at(of(ms, "RayService", "serve"), "spec.rayClusterConfig").pop("gcsFaultToleranceOptions"),
        "a dead head would end serving",
    ),
    "name too long": (
        lambda ms: of(ms, "RayService", "serve")["metadata"].update(name="s" * 48),
        "DNS label of at most 47",
    ),
    "lost configuration": (lambda ms: _drop(ms, "ConfigMap", "nightly-config"), "no ConfigMap nightly-config"),
    "lost account": (lambda ms: _drop(ms, "ServiceAccount", "miner"), "there is no ServiceAccount miner"),
    "open network": (lambda ms: _drop(ms, "NetworkPolicy", "nothing"), "no policy closes all"),
    "pod that no policy speaks of": (
        lambda ms: at(of(ms, "StatefulSet", "gcs-store"), "spec.template.metadata").update(labels={"app": "x"}),
        "StatefulSet/gcs-store at spec.template: no NetworkPolicy of its own selects",
    ),
    "budget of nobody": (
        lambda ms: at(of(ms, "PodDisruptionBudget", "server"), "spec").update(selector={"matchLabels": {"a": "b"}}),
        "PodDisruptionBudget/server at spec: selects no Pod",
    ),
    "budget in percent": (
        lambda ms: at(of(ms, "PodDisruptionBudget", "server"), "spec").update(minAvailable="50%"),
        "by a whole minAvailable",
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_broken_rule_is_found(rendered, fault: str):
    spoil, expected = SPOILT[fault]
    manifests = rendered("aws")
    spoil(manifests)
    found = [str(finding) for finding in policy_findings("aws", manifests, RAY)]
    assert any(expected in line for line in found), found


def test_selectors_match_as_kubernetes_does():
    labels = {"a": "1", "b": "2"}
    assert selects({}, labels) and selects({"matchLabels": {"a": "1"}}, labels)
    assert not selects({"matchLabels": {"a": "1", "c": "3"}}, labels)
    assert selects({"matchExpressions": [{"key": "b", "operator": "In", "values": ["2", "3"]}]}, labels)
    assert not selects({"matchExpressions": [{"key": "b", "operator": "In", "values": ["3"]}]}, labels)
    with pytest.raises(ValueError, match="NotIn"):
        selects({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["3"]}]}, labels)


@pytest.mark.parametrize("overlay", ["aws", "gcp"])
def test_on_a_cloud_rights_come_from_identities_and_not_from_keys(rendered, overlay: str):
    manifests = rendered(overlay)
    annotation = {"aws": "eks.amazonaws.com/role-arn", "gcp": "iam.gke.io/gcp-service-account"}[overlay]
    roles = {
        m["metadata"]["name"]: m["metadata"].get("annotations") for m in manifests if m["kind"] == "ServiceAccount"
    }
    assert all(annotation in roles[name] for name in ("miner", "miner-head", "server", "server-head"))
    assert roles["miner"] == roles["miner-head"] != roles["server"] == roles["server-head"]
    assert roles["submitter"] is roles["night-starter"] is roles["gcs-store"] is None
    text = yaml.safe_dump_all(manifests)
    assert "ACCESS_KEY" not in text and "object-store" not in text and "set-in-an-overlay" not in text


@pytest.mark.parametrize("overlay", ["aws", "gcp"])
def test_only_the_spot_group_is_on_spot_machines(rendered, overlay: str):
    groups = at(of(rendered(overlay), "RayJob", "nightly"), "spec.rayClusterSpec.workerGroupSpecs")
    on_spot = [g["groupName"] for g in groups if "spot" in json.dumps(g["template"]["spec"].get("nodeSelector", {}))]
    assert on_spot == ["spot"]
    images = {g["groupName"]: g["template"]["spec"]["containers"][0]["image"].rpartition("-")[2] for g in groups}
    assert images == {"cpu": "cpu", "spot": "cpu", "gpu": "cuda"}


def test_a_night_starts_by_its_template_which_starts_nothing_itself(rendered):
    manifests = rendered("aws")
    spec = of(manifests, "RayJob", "nightly")["spec"]
    assert spec["suspend"] is True
    assert spec["entrypoint"] == "python /opt/nightminer/jobs/mine_nightly.py --config /etc/nightminer/nightly.toml"
    assert "nightly.toml" in of(manifests, "ConfigMap", "nightly-config")["data"]
    starter = at(of(manifests, "CronJob", "nightly"), "spec.jobTemplate.spec.template.spec.containers.0")
    assert starter["command"][-1] == "cluster.kuberay.start_night" and starter["args"] == ["--template", "nightly"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_night_that_is_stopped_has_time_to_commit(rendered, overlay: str):
    (night,) = [m for m in rendered(overlay) if m["kind"] in ("RayJob", "RayCronJob")][:1]
    spec = night["spec"] if night["kind"] == "RayJob" else night["spec"]["jobTemplate"]
    head = at(spec, "rayClusterSpec.headGroupSpec.template.spec.containers.0")
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "300"} in head["env"]


def test_the_raycronjob_overlay_runs_the_same_night_and_no_cronjob(rendered):
    manifests = rendered("raycronjob")
    night = dict(of(rendered("aws"), "RayJob", "nightly")["spec"])
    del night["suspend"]
    assert of(manifests, "RayCronJob", "nightly")["spec"]["jobTemplate"] == night
    assert not {"CronJob", "RayJob", "Role", "RoleBinding"} & {m["kind"] for m in manifests}


def test_the_embedded_store_needs_no_valkey(rendered):
    manifests = rendered("embedded-gcs")
    options = at(of(manifests, "RayService", "serve"), "spec.rayClusterConfig.gcsFaultToleranceOptions")
    assert options["backend"] == "rocksdb"
    assert "gcs-store" not in yaml.safe_dump_all(manifests)


def test_overlays_change_nothing_of_serving_but_its_store(rendered):
    def configuration(overlay: str) -> dict[str, Any]:
        return yaml.safe_load(of(rendered(overlay), "RayService", "serve")["spec"]["serveConfigV2"])

    first = configuration("aws")
    for overlay in OVERLAYS:
        other = configuration(overlay)
        store = other["applications"][0]["args"]["store"]
        assert f'store = "{store}"' in of(rendered(overlay), "ConfigMap", "nightly-config")["data"]["nightly.toml"]
        other["applications"][0]["args"]["store"] = first["applications"][0]["args"]["store"]
        assert other == first


def test_a_misspelt_serve_configuration_is_found(rendered):
    service = of(rendered("aws"), "RayService", "serve")
    service["spec"]["serveConfigV2"] = service["spec"]["serveConfigV2"].replace("import_path", "import_paht")
    assert any("import_paht" in str(f) or "import_path" in str(f) for f in serve_findings("aws", service))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a check asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_launcher_file_fits_rays_schema_and_is_prepared_without_network(no_network, cloud: str):
    assert launcher_findings(command.CLUSTER / f"{cloud}.yaml", RAY) == []
    assert "RAY_JOB_STOP_WAIT_TIME_S=300 ray start --head" in (command.CLUSTER / f"{cloud}.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("cloud", "right", "wrong", "told"),
    [
        ("aws", "idle_timeout_minutes:", "idle_timeout_minuts:", "idle_timeout_minuts"),
        ("gcp", "head_node_type: head", "head_node_type: heads", "head_node_type"),
        ("aws", "InstanceMarketOptions:", "InstanceMarketOption:", "InstanceMarketOption"),
        ("aws", "HttpTokens: required", "HttpTokens: optional", "IMDSv2"),
        ("aws", "min_workers: 0", "min_workers: 1", "must start at min_workers: 0"),
        ("gcp", "    - --env RAY_AUTH_MODE=token\n", "", "RAY_AUTH_MODE=token"),
    ],
)
def test_a_fault_in_a_launcher_file_is_found(tmp_path: Path, cloud: str, right: str, wrong: str, told: str):
    text = (command.CLUSTER / f"{cloud}.yaml").read_text(encoding="utf-8")
    assert right in text
    spoilt = tmp_path / f"{cloud}.yaml"
    spoilt.write_text(text.replace(right, wrong), encoding="utf-8")
    found = [str(finding) for finding in launcher_findings(spoilt, RAY)]
    assert any(told in line for line in found), found


@pytest.mark.parametrize("with_environment", [False, True])
def test_cron_runs_the_night_and_logs_it_with_and_without_an_environment(tmp_path: Path, with_environment: bool):
    lines = (command.CLUSTER / "cron" / "nightly.cron").read_text("utf-8").splitlines()
    told = next(line for line in lines if line.startswith("30 1 "))
    for place in ("/opt/nightminer", "/etc/nightminer", "/var/log/nightminer"):
        (tmp_path / place[1:]).mkdir(parents=True)
        told = told.replace(place, str(tmp_path / place[1:]))
    python = tmp_path / "opt/nightminer/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" "address=$RAY_ADDRESS"\n')
    python.chmod(0o755)
    if with_environment:
        (tmp_path / "etc/nightminer/nightly.env").write_text("RAY_ADDRESS=10.0.0.1:6379\n")
    subprocess.run(["/bin/sh", "-c", told.split(maxsplit=6)[6]], env={"PATH": "/usr/bin:/bin"}, check=True)
    logged = (tmp_path / "var/log/nightminer/nightly.log").read_text()
    assert logged.startswith("jobs/mine_nightly.py --config")
    assert logged.endswith(f"address={'10.0.0.1:6379' if with_environment else ''}\n")


def test_a_folder_that_does_not_render_or_holds_no_schema_is_told(tmp_path: Path, rendered):
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"does not render: .*nowhere\.yaml"):
        render(tmp_path)
    with pytest.raises(ConfigError, match="holds no custom resource definition"):
        load_custom_schemas(tmp_path)


@pytest.fixture
def cluster_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered) -> Path:
    """`cluster/` in a folder of its own, on which the command then works."""
    copied = tmp_path / "cluster"
    shutil.copytree(command.CLUSTER, copied, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(command.CLUSTER.parent / "constraints.txt", tmp_path)
    monkeypatch.setattr(command, "CLUSTER", copied)
    return copied


def test_the_command_counts_files_and_errors(cluster_copy: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main() == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["errors"] == 0 and summary["files"] >= 25 and summary["objects"] > 100


def test_the_command_fails_on_a_misspelt_field(
    cluster_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(command.SCHEMAS, raising=False)
    network = cluster_copy / "kuberay" / "base" / "network.yaml"
    network.write_text(network.read_text().replace("policyTypes: [Egress]", "policyType: [Egress]", 1))
    assert command.main() == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["errors"] >= len(OVERLAYS)
    assert "NetworkPolicy/names" in err and "policyType" in err


def test_without_kuberays_schemas_the_command_says_what_it_left_out(
    cluster_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(command.SCHEMAS, raising=False)
    assert command.main() == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["unchecked"] == 2 * len(OVERLAYS)
    assert "NOT checked" in err and command.SCHEMAS in err
