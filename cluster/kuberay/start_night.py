"""What the nightly CronJob runs: creates the night's RayJob from the suspended template, and waits for its end.

The RayJob bears the name of the CronJob's Job and belongs to it. So a starter that is evicted and started again finds
the night that it has begun, the Job's end is the night's end (`concurrencyPolicy: Forbid` then holds between nights),
and the Job's history limit removes old nights. Standard library alone: it must start where little else does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NIGHT_FAILED = 10  # podFailurePolicy of the CronJob reads it: do not try again
CANNOT_START = 2
_UNREACHABLE = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class ApiRefusal(Exception):
    """The API server answered, and said no: `status` is its HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answers {status}: {message}")
        self.status = status


class RayJobs:
    """The RayJobs of one namespace, over the API server's HTTP interface.

    Args:
        url: `https://HOST:PORT` of the API server.
        namespace: where the jobs are.
        token: gives the account's token, read anew for each request since it is renewed on disk.
        ca_file: the API server's certificate authority; None for plain HTTP.
    """

    def __init__(self, url: str, namespace: str, token: Callable[[], str], ca_file: Path | None) -> None:
        self._base = f"{url}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._token = token
        self._context = ssl.create_default_context(cafile=ca_file) if ca_file else None

    def get(self, name: str) -> dict[str, Any]:
        """Raises ApiRefusal (404 where there is none), or one of urllib's errors where nobody answers."""
        return self._ask("GET", f"{self._base}/{name}", None)

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Raises ApiRefusal (409 where the name is taken), or one of urllib's errors."""
        return self._ask("POST", self._base, job)

    def _ask(self, method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
        request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body else None)
        request.add_header("Authorization", f"Bearer {self._token()}")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            try:
                text = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                text = text[:200]
            raise ApiRefusal(error.code, text) from None


def night_of(template: dict[str, Any], name: str, owner_uid: str) -> dict[str, Any]:
    """The RayJob of one night: the template's specification without its suspension, owned by the Job of that name."""
    metadata = template["metadata"]
    return {
        "apiVersion": template["apiVersion"],
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "labels": metadata.get("labels") or {},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner_uid}],
        },
        "spec": {key: value for key, value in template["spec"].items() if key != "suspend"},
    }


def patiently(ask: Callable[[], dict[str, Any]], pause_s: float, patience_s: float) -> dict[str, Any]:
    """What `ask` returns, asked again while nobody answers or the server is overloaded (429, 5xx).

    Raises:
        ApiRefusal, or urllib's error: nothing better came within `patience_s`; other refusals at once.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except ApiRefusal as error:
            if (error.status < 500 and error.status != 429) or time.monotonic() > deadline:
                raise
        except _UNREACHABLE:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause_s)


def run_night(
    jobs: RayJobs, template_name: str, name: str, owner_uid: str, pause_s: float = 15.0, patience_s: float = 600.0
) -> dict[str, Any]:
    """Start the night, or find it where it has begun, and wait until it is over.

    Returns:
        {"night", "started", "status", "message", "seconds"}; status is SUCCEEDED, FAILED or STOPPED.
    Raises:
        ApiRefusal: no such template, no right, or the name belongs to another job.
    """
    begun = time.monotonic()
    template = patiently(lambda: jobs.get(template_name), pause_s, patience_s)
    started = True
    try:
        patiently(lambda: jobs.create(night_of(template, name, owner_uid)), pause_s, patience_s)
    except ApiRefusal as error:
        if error.status != 409:
            raise
        owners = patiently(lambda: jobs.get(name), pause_s, patience_s)["metadata"].get("ownerReferences") or []
        if owner_uid not in [owner["uid"] for owner in owners]:
            raise ApiRefusal(409, f"RayJob {name} exists and is not this night's; remove it") from None
        started = False
    while True:
        status = patiently(lambda: jobs.get(name), pause_s, patience_s).get("status") or {}
        if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
            break
        time.sleep(pause_s)
    failed = status["jobDeploymentStatus"] == "Failed"
    return {
        "night": name,
        "started": started,
        "status": "FAILED" if failed else status.get("jobStatus") or "FAILED",
        "message": status.get("message") or "",
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> int:
    """Returns 0 where the night succeeded, NIGHT_FAILED where it did not, CANNOT_START where it never began."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--template", required=True, help="name of the suspended RayJob")
    template = parser.parse_args().template
    try:
        url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
        name, owner_uid = os.environ["NIGHT"], os.environ["NIGHT_OWNER_UID"]
        namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except (KeyError, OSError) as error:
        print(f"error: runs in the Pod of cluster/kuberay/base/nightly-schedule.yaml alone: {error}", file=sys.stderr)
        return CANNOT_START
    jobs = RayJobs(url, namespace, lambda: (ACCOUNT / "token").read_text(encoding="utf-8"), ACCOUNT / "ca.crt")
    try:
        outcome = run_night(jobs, template, name, owner_uid)
    except (ApiRefusal, *_UNREACHABLE) as error:
        print(f"error: night {name} from template {template} in {namespace}: {error}", file=sys.stderr)
        return CANNOT_START
    print(json.dumps(outcome))
    return 0 if outcome["status"] == "SUCCEEDED" else NIGHT_FAILED


if __name__ == "__main__":
    raise SystemExit(main())
