"""An S3 server on the loopback, in a thread of the tests, that can be told to fail."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import WSGIRequestHandler, make_server

Refusal = Callable[[str, str], bool]
"""Whether a request of a method for a path is to be refused."""


class _Quiet(WSGIRequestHandler):
    def log(self, *arguments: object, **options: object) -> None:
        """Nothing."""


class ObjectServer:
    """What tests need of it: an address, what it was asked for, and faults."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.refuse: Refusal = lambda method, path: False
        self._app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)

    @property
    def query(self) -> str:
        return f"endpoint_override=127.0.0.1:{self.server.server_port}&scheme=http&region=us-east-1"

    def url(self, prefix: str) -> str:
        return f"s3://bucket/{prefix}?{self.query}"

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if self.refuse(method, path):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server with the bucket `bucket`."""
    server = ObjectServer()
    thread = threading.Thread(target=server.server.serve_forever, daemon=True)
    thread.start()
    try:
        filesystem, _ = fs.FileSystem.from_uri(f"s3://bucket?allow_bucket_creation=true&{server.query}")
        filesystem.create_dir("bucket")
        yield server
    finally:
        server.server.shutdown()
        thread.join()
        server.server.server_close()
