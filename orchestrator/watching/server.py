"""The page of a run, served on this machine alone."""

import json
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.storage.store import folder_name
from orchestrator.watching.state import Watched
from workloads.messages import message

HOST, PORT = "127.0.0.1", 8642
LEAST_SECONDS, SHARE = 1.0, 0.1  # between two looks at the run, and the share of the time that they may take
ALLOWED = "default-src 'none'; img-src data:; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Cached:
    """The state of a run as JSON, renewed when it is asked for, but not too often."""

    def __init__(self, watched: Watched):
        self.watched, self.lock = watched, threading.Lock()
        self.until, self.text = float("-inf"), "{}"

    def state(self) -> str:
        """The state; where it cannot be read, a sentence that says why."""
        with self.lock:
            started = time.monotonic()
            if started >= self.until:
                try:
                    self.text = json.dumps(self.watched.state(), allow_nan=False, default=str)
                except (OSError, ValueError, pa.ArrowException) as error:
                    self.text = json.dumps({"error": message(error)})
                took = time.monotonic() - started
                self.until = time.monotonic() + max(LEAST_SECONDS, took / SHARE)
            return self.text


class PageServer(ThreadingHTTPServer):
    """Serves the page of one run to this machine.

    Args:
        port: 0 is any that is free.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, run: str, port: int):
        self.cached = Cached(Watched(run))
        self.run = run
        self.page = (files("orchestrator.watching") / "page.html").read_bytes()
        super().__init__((HOST, port), Handler)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/"

    def report(self) -> bytes | None:
        """The page of the run's report, if there is one on this machine."""
        place = Path("runs", folder_name(self.run)) if "://" in self.run else Path(self.run).expanduser()
        try:
            return (place / "report" / "index.html").read_bytes()
        except OSError:
            return None


class Handler(BaseHTTPRequestHandler):
    """Answers the browser: the page, the state, the report, and nothing else."""

    server: PageServer

    def do_GET(self) -> None:
        """Answer one request; those that reached this machine under another name come from elsewhere."""
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        if self.headers.get("Host") not in hosts:
            self.answer(HTTPStatus.FORBIDDEN, b"", "text/plain")
        elif self.path == "/":
            self.answer(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif self.path == "/state":
            self.answer(HTTPStatus.OK, self.server.cached.state().encode(), "application/json")
        elif self.path == "/report" and (report := self.server.report()) is not None:
            self.answer(HTTPStatus.OK, report, "text/html; charset=utf-8")
        else:
            self.answer(HTTPStatus.NOT_FOUND, b"There is no report yet." * (self.path == "/report"), "text/plain")

    def answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        """Send a whole answer; a browser that has gone away is no error."""
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", ALLOWED),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""


def serve(server: PageServer) -> None:
    """Answer until Ctrl-C."""
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def opened(run: str, port: int | None) -> PageServer:
    """A server on the port; on the usual one, or any where that is taken, for None.

    Raises:
        FileNotFoundError, ValueError: there is no run, or it cannot be read.
        OSError: the port is taken or not allowed; the message says what to do.
    """
    wanted = PORT if port is None else port
    try:
        return PageServer(run, wanted)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        if port is None:
            return PageServer(run, 0)
        raise OSError(f"port {port} cannot be used ({error.strerror}): give another as --port, or none") from error
