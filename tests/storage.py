"""A bucket on this machine: the emulator of Google Cloud Storage, with what the lock needs.

The emulator gcp-storage-emulator ignores preconditions, which are added here as the documentation
of the JSON API defines them: a request with `ifGenerationMatch` fails with 412 unless the object
has that generation, 0 for none; likewise `ifMetagenerationMatch`. Requests can be made to fail.
"""

import contextlib
import functools
import pathlib
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"


class Service:
    """The running service.

    Attributes:
      address: for STORAGE_EMULATOR_HOST.
      requests: what was asked for, as "POST name" with the names of objects where they are known.
      fail: given "POST name", returns the status to answer with, None for the right answer.
      changed: called after each request that may change an object.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.fail: Callable[[str], HTTPStatus | None] = lambda request: None
        self.changed: Callable[[], None] = lambda: None
        self._storage = Storage(use_memory_fs=True)
        buckets.create_bucket(BUCKET, self._storage)
        self.address = ""

    def objects(self, run: str) -> dict[str, bytes]:
        """The contents of a run's objects, by name."""
        files, _ = self._storage.get_file_list(BUCKET, f"{run}/", None)
        names = [file["name"] for file in files]
        return {
            name.removeprefix(f"{run}/"): self._storage.get_file(BUCKET, name) for name in names
        }

    def put(self, name: str, content: bytes) -> None:
        """Replace an object, behind the back of all programs."""
        described = dict(self._storage.get_file_obj(BUCKET, name), size=str(len(content)))
        for checksum in ("crc32c", "md5Hash", "etag"):
            del described[checksum]
        described = objects._checksums(content, described)
        self._storage.create_file(BUCKET, name, content, described)

    def remove(self, name: str) -> None:
        """Remove an object, likewise."""
        self._storage.delete_file(BUCKET, name)

    def download(self, run: str, folder: pathlib.Path) -> pathlib.Path:
        """Copy a run's objects into a folder."""
        for name, content in self.objects(run).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder

    def answer(self, handler: Any, request: Any, response: Any, storage: Storage) -> None:
        """Answer a request, as the emulator's handler does."""
        data = request.data  # is read in any case, since the connection stays
        name = request.params.get("object_id")
        if request.method == "POST" and isinstance(data, dict):
            name = data.get("meta", data).get("name")
        what = f"{request.method} {name or ''}".strip()
        self.requests.append(what)
        status = self.fail(what)
        if status is None and not self._meets(request, name):
            status = HTTPStatus.PRECONDITION_FAILED
        if status is None:
            handler(request, response, storage)
            if request.method != "GET":
                self.changed()
        else:
            response.status = status
            response.json({"error": {"code": status.value, "message": status.phrase}})

    def _meets(self, request: Any, name: str | None) -> bool:
        wanted = {
            kind: request.query[f"if{kind.capitalize()}Match"][0]
            for kind in ("generation", "metageneration")
            if f"if{kind.capitalize()}Match" in request.query
        }
        try:
            there = self._storage.get_file_obj(BUCKET, name) if wanted else {}
        except NotFound:
            there = {"generation": "0"}
        return all(str(there.get(kind)) == value for kind, value in wanted.items())


@contextlib.contextmanager
def service() -> Iterator[Service]:
    """Start the service, with an empty bucket."""
    running = Service()
    handlers = emulator.HANDLERS
    emulator.HANDLERS = tuple(
        (path, {method: functools.partial(running.answer, one) for method, one in each.items()})
        for path, each in handlers
    )
    handler = functools.partial(emulator.RequestHandler, running._storage)
    with _Server(("localhost", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.address = f"http://localhost:{server.server_port}"
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
            emulator.HANDLERS = handlers


class _Server(HTTPServer):
    """Answers one request after the other, so that each sees what the last one did."""

    request_queue_size = 64
