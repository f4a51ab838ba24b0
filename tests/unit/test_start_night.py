"""The nightly CronJob's starter, against a server that answers as Kubernetes' API does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.kuberay.start_night import CANNOT_START, ApiRefusal, RayJobs, night_of, run_night

TEMPLATE = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "nightly", "uid": "t", "resourceVersion": "7", "labels": {"a": "b"}},
    "spec": {"suspend": True, "entrypoint": "python x.py", "backoffLimit": 2},
    "status": {"jobDeploymentStatus": "Suspended"},
}


class FakeApi(ThreadingHTTPServer):
    """RayJobs by name; each look at a night takes it one status further."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs = {"nightly": TEMPLATE}
        self.statuses = [{"jobDeploymentStatus": "Initializing"}, {"jobDeploymentStatus": "Running"}]
        self.end = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
        self.outages: list[int] = []
        self.created: list[dict] = []


class _Handler(BaseHTTPRequestHandler):
    server: FakeApi

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, code: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refused(self) -> bool:
        if self.headers["Authorization"] != "Bearer token":
            self._answer(401, {"message": "Unauthorized"})
            return True
        if self.server.outages:
            self._answer(self.server.outages.pop(0), {"message": "try later"})
            return True
        return False

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self._refused():
            return
        if name not in self.server.jobs:
            self._answer(404, {"message": f'rayjobs.ray.io "{name}" not found'})
            return
        job = dict(self.server.jobs[name])
        if name != "nightly":
            job["status"] = self.server.statuses.pop(0) if self.server.statuses else self.server.end
        self._answer(200, job)

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        name = job["metadata"]["name"]
        if name in self.server.jobs:
            self._answer(409, {"message": f'rayjobs.ray.io "{name}" already exists'})
            return
        self.server.jobs[name] = job
        self.server.created.append(job)
        self._answer(201, job)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def jobs_of(api: FakeApi, token: str = "token") -> RayJobs:
    return RayJobs(f"http://127.0.0.1:{api.server_port}", "nightminer", lambda: token, None)


def night(api: FakeApi, owner_uid: str = "uid-1", template: str = "nightly") -> dict:
    return run_night(jobs_of(api), template, "nightly-29000000", owner_uid, pause_s=0.01, patience_s=1.0)


def test_a_night_is_the_template_unsuspended_and_owned_by_its_job(api: FakeApi):
    outcome = night(api)
    assert (outcome["status"], outcome["started"]) == ("SUCCEEDED", True)
    (job,) = api.created
    assert job["spec"] == {"entrypoint": "python x.py", "backoffLimit": 2}
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-29000000", "uid": "uid-1"}
    ]
    assert "resourceVersion" not in job["metadata"] and "status" not in job


def test_an_evicted_starter_finds_its_night_and_starts_no_second(api: FakeApi):
    api.jobs["nightly-29000000"] = night_of(TEMPLATE, "nightly-29000000", "uid-1")
    outcome = night(api)
    assert (outcome["status"], outcome["started"], api.created) == ("SUCCEEDED", False, [])


def test_another_jobs_name_is_refused(api: FakeApi):
    api.jobs["nightly-29000000"] = night_of(TEMPLATE, "nightly-29000000", "someone-else")
    with pytest.raises(ApiRefusal, match="not this night's; remove it"):
        night(api)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "OOM"}, "FAILED"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "SUCCEEDED"}, "FAILED"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "STOPPED"),
        ({"jobDeploymentStatus": "Complete"}, "FAILED"),
    ],
)
def test_only_a_success_is_called_one(api: FakeApi, end: dict, status: str):
    api.end = end
    outcome = night(api)
    assert (outcome["status"], outcome["message"]) == (status, end.get("message", ""))


def test_an_overloaded_api_server_is_asked_again(api: FakeApi):
    api.outages = [503, 429, 500]
    assert night(api)["status"] == "SUCCEEDED"


def test_an_api_server_that_stays_away_ends_the_starter(api: FakeApi):
    api.outages = [503] * 1000
    with pytest.raises(ApiRefusal, match="503"):
        run_night(jobs_of(api), "nightly", "n", "u", pause_s=0.01, patience_s=0.1)


def test_a_missing_template_and_a_missing_right_are_told_at_once(api: FakeApi):
    with pytest.raises(ApiRefusal, match=r'404: .*"nigthly" not found'):
        night(api, template="nigthly")
    with pytest.raises(ApiRefusal, match="401: Unauthorized"):
        run_night(jobs_of(api, token="old"), "nightly", "n", "u", pause_s=0.01, patience_s=1.0)


def test_outside_a_pod_it_says_where_it_belongs():
    done = subprocess.run(
        [sys.executable, "-m", "cluster.kuberay.start_night", "--template", "nightly"],
        capture_output=True,
        text=True,
        env={},
        check=False,
        timeout=30,
    )
    assert done.returncode == CANNOT_START
    assert done.stderr.startswith("error: runs in the Pod of") and "Traceback" not in done.stderr
