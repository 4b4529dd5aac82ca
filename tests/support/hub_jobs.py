"""Jobs of the test Hub: what was asked for is kept, and each ends as it was told. https://huggingface.co/docs/hub/api"""

import itertools
import json
from dataclasses import dataclass, field

from hub_http import Answer, Request
from hub_store import HubError, Store

JOBS = r"/api/jobs/(?P<namespace>[^/]+)"
TIME = "2026-01-01T00:00:00.000Z"


@dataclass
class Job:
    """`log` comes in two pieces: the first stream breaks off after half of it, while the job still runs."""

    id: str
    namespace: str
    asked: dict
    stage: str = "COMPLETED"  # in which it ends
    message: str | None = None
    running_secs: int = 60
    log: list[str] = field(default_factory=lambda: ["one", "two"])
    streams: int = 0

    @property
    def is_over(self) -> bool:
        return self.stage == "CANCELED" or self.streams > 1

    def body(self) -> dict:
        stage, message = (self.stage, self.message) if self.is_over else ("RUNNING", None)
        names = ("command", "arguments", "environment", "flavor", "labels", "volumes", "dockerImage")
        return {
            "id": self.id,
            "createdAt": TIME,
            "startedAt": TIME,
            "finishedAt": TIME if self.is_over else None,
            **{name: self.asked[name] for name in names if name in self.asked},
            "secrets": sorted(self.asked.get("secrets", {})),
            "status": {"stage": stage, "message": message},
            "durations": {"schedulingSecs": 1, "runningSecs": self.running_secs, "totalSecs": self.running_secs + 1},
            "owner": {"id": "1", "name": self.namespace, "type": "user"},
        }


class Jobs:
    """`ending` holds how jobs from now on end: stage, message, running_secs, log."""

    def __init__(self, store: Store):
        self.store, self.jobs, self.ending = store, dict[str, Job](), {}
        self._numbers = itertools.count(1)
        self.routes = [
            ("POST", JOBS, self.start),
            ("GET", rf"{JOBS}/(?P<id>\w+)", self.inspect),
            ("GET", rf"{JOBS}/(?P<id>\w+)/logs", self.logs),
            ("POST", rf"{JOBS}/(?P<id>\w+)/cancel", self.cancel),
        ]

    def start(self, request: Request, namespace: str) -> Answer:
        self.check_owner(request, namespace)
        job = Job(f"job{next(self._numbers)}", namespace, request.json(), **self.ending)
        self.jobs[job.id] = job
        return Answer.of(job.body())

    def inspect(self, request: Request, namespace: str, id: str) -> Answer:
        return Answer.of(self.find(request, namespace, id).body())

    def logs(self, request: Request, namespace: str, id: str) -> Answer:
        job = self.find(request, namespace, id)
        job.streams += 1
        lines = ["===== Job started =====", *job.log]
        events = [json.dumps({"data": line, "timestamp": TIME}) for line in lines[: None if job.is_over else 2]]
        return Answer(200, {"Content-Type": "text/event-stream"}, "".join(f"data: {e}\n\n" for e in events).encode())

    def cancel(self, request: Request, namespace: str, id: str) -> Answer:
        job = self.find(request, namespace, id)
        job.stage = "CANCELED"
        return Answer.of(job.body())

    def find(self, request: Request, namespace: str, id: str) -> Job:
        self.check_owner(request, namespace)
        if id not in self.jobs:
            raise HubError(404, "Job not found")
        return self.jobs[id]

    def check_owner(self, request: Request, namespace: str) -> None:
        user = self.store.user_of(request.headers.get("authorization"))
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user != namespace:
            raise HubError(403, f"You don't have the rights to run jobs under the namespace {namespace}")
