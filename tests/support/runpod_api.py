"""Runpod's HTTP API as far as the launcher asks it: pods that come up by themselves, one network volume, every request
kept.

Fields and states: https://docs.runpod.io/api-reference-v2
"""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "rpa_" + "TestKeyThatMustAppearNowhere567890"
COMING_UP = ("PROVISIONING", "STARTING", "RUNNING")


class RunpodApi:
    """Its pods are reached by ssh at `ssh_port` of this machine. `requests` holds (method, path, body)."""

    def __init__(self, ssh_port: int):
        self.ssh_port, self.requests, self.pods = ssh_port, [], {}
        self.refusal: tuple[int, str] | None = None  # of the next POST
        self._numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v2"

    def __enter__(self) -> "RunpodApi":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: dict | None) -> tuple[int, dict]:
        self.requests.append((method, path, body))
        match [method, *path.strip("/").split("/")[1:]]:
            case ["POST", *_] if self.refusal:
                status, detail = self.refusal
                return status, {"title": "Refused", "status": status, "detail": detail}
            case ["GET", "network-volumes", "vol_1"]:
                return 200, {"id": "vol_1", "name": "speech", "size": 100, "dataCenter": "EU-RO-1"}
            case ["POST", "pods"]:
                pod = {"id": f"pod{next(self._numbers)}", "status": "PROVISIONING", "cost": 0.35, "asked": body}
                self.pods[pod["id"]] = pod
                return 201, self.shown(pod)
            case ["GET", "pods", id] if id in self.pods:
                return 200, self.shown(self.come_up(self.pods[id]))
            case ["POST", "pods", id, "action"] if id in self.pods:
                self.pods[id]["status"] = {"start": "PROVISIONING", "stop": "EXITED"}[body["action"]]
                return 200, self.shown(self.pods[id])
        return 404, {"title": "Not Found", "status": 404, "detail": "resource not found"}

    def come_up(self, pod: dict) -> dict:
        if pod["status"] in COMING_UP[:2]:
            pod["status"] = COMING_UP[COMING_UP.index(pod["status"]) + 1]
        return pod

    def shown(self, pod: dict) -> dict:
        ports = [{"private": 22, "public": self.ssh_port, "type": "tcp", "ip": "127.0.0.1"}]
        return {
            "id": pod["id"],
            "status": pod["status"],
            "cost": pod["cost"],
            "env": pod["asked"]["env"],
            "runtime": {"uptime": 1, "ports": ports} if pod["status"] == "RUNNING" else None,
        }


class _Handler(BaseHTTPRequestHandler):
    api: RunpodApi

    def handle_request(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        status, found = (
            self.api.answer(self.command, self.path, body)
            if self.headers.get("authorization") == f"Bearer {KEY}"
            else (401, {"title": "Unauthorized", "status": 401, "detail": "missing bearer token"})
        )
        content = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = handle_request

    def log_message(self, *args) -> None:
        pass
