"""HTTP of the test Hub: requests in, answers out, everything recorded, failures where they are ordered."""

import fnmatch
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import HubError


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # as sent, without the query
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> "Answer":
        return cls(status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode())


@dataclass(frozen=True)
class Record:
    """What was asked for and answered. `status` is 0 where the connection was dropped instead."""

    request: str  # "PUT /objects/..."
    status: int
    received: int  # bytes of the body
    authorized: bool  # a token came along


@dataclass
class Fault:
    """A failure of the next `times` requests that look like `request`, as in "PUT /objects/*".

    `drop_after` closes the connection after so many bytes of the body instead of answering; `answer_lost` does what is
    asked for and closes it then.
    """

    request: str
    times: int = 1
    status: int = 500
    message: str = "Internal Error - We're working hard to fix this as soon as possible!"
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    answer_lost: bool = False


class Service:
    """One listening address of the Hub, with its routes.

    Args:
        routes: (method, pattern of the path, function of the request and the pattern's groups).
    """

    def __init__(
        self, routes: list[tuple[str, str, Callable[..., Answer]]], records: list[Record], faults: list[Fault]
    ):
        self.routes = [(method, re.compile(pattern), function) for method, pattern, function in routes]
        self.records, self.faults, self.lock = records, faults, threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def answer(self, request: Request) -> Answer:
        try:
            for method, pattern, function in self.routes:
                if method == request.method and (match := pattern.fullmatch(request.path)):
                    groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                    with self.lock:
                        return function(request, **groups)
            raise HubError(404, "Sorry, we can't find the page you are looking for.")
        except HubError as error:
            return Answer.of(error.body, error.status, **error.headers)

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            fault = next((f for f in self.faults if f.times > 0 and fnmatch.fnmatchcase(request, f.request)), None)
            if fault is not None:
                fault.times -= 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # head and body in one packet
    service: Service

    def handle_request(self) -> None:
        address = urlsplit(self.path)
        name, headers = (
            f"{self.command} {unquote(address.path)}",
            {key.lower(): value for key, value in self.headers.items()},
        )
        fault = self.service.fault_of(name)
        if fault is not None and fault.drop_after is not None:
            length = min(fault.drop_after, int(headers.get("content-length", fault.drop_after)))
            return self.drop(name, len(self.rfile.read(length)), headers)
        body = self.read_body(headers)
        if fault is not None and not fault.answer_lost:
            answer = Answer.of({"error": fault.message}, fault.status, **fault.headers)
        else:
            answer = self.service.answer(Request(self.command, address.path, parse_qs(address.query), headers, body))
        if fault is not None and fault.answer_lost:
            return self.drop(name, len(body), headers)
        self.service.records.append(Record(name, answer.status, len(body), "authorization" in headers))
        self.send_response(answer.status)
        for key, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def drop(self, name: str, received: int, headers: dict[str, str]) -> None:
        self.service.records.append(Record(name, 0, received, "authorization" in headers))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args) -> None:
        pass
