"""A Hub to test against: it speaks over HTTP what the unmodified `huggingface_hub` client asks, and fails as it is
told.

Set `HF_ENDPOINT` to its `url` and `HF_HUB_DISABLE_XET=1`, since Xet's own protocol is not spoken here:

    with HubServer() as hub, hub.environment() as environment: subprocess.run(..., env=environment)

As a program it serves an empty Hub until it is interrupted.
"""

import argparse
import os
import threading
from pathlib import Path

from hub_api import Api
from hub_http import Fault, Record, Service
from hub_jobs import Jobs
from hub_store import Repository, Store

TOKEN, USER = "hf_" + "TestTokenThatMustAppearNowhere1234", "tester"


class HubServer:
    """The Hub and its storage, each at an address of its own on this machine.

    Args:
        tokens: to the users whose they are.
        part_size: bytes; larger files are uploaded in parts of this size.
        page_size: entries in a page of a tree.
    """

    def __init__(self, tokens: dict[str, str] | None = None, part_size: int = 5 * 2**20, page_size: int = 1000):
        self.store = Store(tokens or {TOKEN: USER})
        self.records: list[Record] = []
        self._faults: list[Fault] = []
        self._api = Api(self.store, part_size, page_size)
        self.jobs = Jobs(self.store)
        self._services = [
            Service(routes, self.records, self._faults)
            for routes in (self._api.routes + self.jobs.routes, self._api.storage_routes)
        ]
        self.url, self.storage_url = (service.url for service in self._services)
        self._api.url, self._api.storage_url = self.url, self.storage_url

    def __enter__(self) -> "HubServer":
        for service in self._services:
            service.thread.start()
        return self

    def __exit__(self, *error) -> None:
        for service in self._services:
            service.server.shutdown()
            service.server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """The variables by which Hugging Face's libraries speak with this Hub, and keep what they have in `home`
        alone."""
        variables = {
            key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE")
        }
        return {
            **variables,
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **({} if token is None else {"HF_TOKEN": token}),
        }

    # Failures

    def fail(self, request: str, times: int = 1, status: int = 500, **fault) -> None:
        """Answer the next `times` requests that look like `request` ("POST */commit/*") with `status`."""
        self._faults.append(Fault(request, times, status, **fault))

    def drop(self, request: str, times: int = 1, after: int = 0) -> None:
        """Close the connection after so many bytes of the body."""
        self._faults.append(Fault(request, times, drop_after=after))

    def lose_answer(self, request: str, times: int = 1) -> None:
        """Do what is asked for, and close the connection instead of saying so."""
        self._faults.append(Fault(request, times, answer_lost=True))

    def limit(self, request: str, times: int = 1, retry_after: int = 1) -> None:
        """Too many requests: come back after so many seconds."""
        self.fail(request, times, 429, message="Too Many Requests", headers={"Retry-After": str(retry_after)})

    def expire(self, token: str = TOKEN) -> None:
        self.store.expired.add(token)

    def fill_disk(self, full: bool = True) -> None:
        """Refuse large files as the Hub does once an account's storage is used up."""
        self.store.is_full = full

    def recover(self) -> None:
        """No failure any more."""
        self._faults.clear()
        self.store.expired.clear()
        self.fill_disk(False)

    # What there is, and what was asked for

    def repository(self, id: str, kind: str = "models") -> Repository:
        return self.store.repositories[kind, id]

    def files(self, id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Path to content of every file of a repository but git's own."""
        found = self.repository(id, kind).at(revision).files
        return {path: self.store.content(file) for path, file in sorted(found.items()) if path != ".gitattributes"}

    def asked(self, start: str) -> list[Record]:
        """The requests so far that begin so, as in "PUT /objects/"."""
        return [record for record in self.records if record.request.startswith(start)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with HubServer() as server:
        print(f"HF_ENDPOINT={server.url} HF_HUB_DISABLE_XET=1 HF_TOKEN={TOKEN}", flush=True)
        threading.Event().wait()
