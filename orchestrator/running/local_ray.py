"""A Ray of this machine's own, for one run: it listens on the loopback interface and asks nobody outside."""

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
import ray._private.ray_constants
import ray._private.services
import ray._private.worker

from orchestrator.running.signals import handlers_kept, sheltered
from workloads.messages import message

OBJECT_STORE_BYTES = 256 * 1024**2
LONGEST_FOLDER = 40  # characters: Ray puts sockets under it, whose paths the system limits to about 107
NEEDED = ("gcs_server", "raylet")
STAYS_ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class LocalRay:
    """The Ray that this process has started.

    Attributes:
        logs: folder of Ray's own messages.
        needed: processes of it, by name, without which nothing goes on.
    """

    def __init__(self, logs: str, processes: Iterable[psutil.Process]):
        self.logs = logs
        self.needed = {process.name(): process for process in processes if process.name() in NEEDED}

    def check(self) -> None:
        """Notice at once what Ray itself would wait a minute for.

        Raises:
            ConnectionError: a process has ended without which nothing goes on.
        """
        for name, process in self.needed.items():
            if not alive(process):
                raise ConnectionError(
                    f"Ray has ended while the run went on (its process {name} has died; Ray's own messages are in "
                    f"'{self.logs}')"
                )


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def local_ray(cpus: int | None = None) -> Iterator[LocalRay]:
    """Have a Ray on this machine, for this process alone, for the length of a block.

    Args:
        cpus: that tasks may reserve; None is all that there are.

    Raises:
        ConnectionError: it cannot start.
    """
    with replaced(ray._private.worker, "print_to_stdstream", lambda *_, **__: None):  # its logs have it all
        here = start(cpus)
        try:
            yield here
        finally:
            end(here)


def start(cpus: int | None) -> LocalRay:
    """Start Ray; see `local_ray`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    keep_token_out_of_home()
    folder = temporary_folder()
    before = set(psutil.Process().children())
    try:
        with sheltered(), handlers_kept(), on_loopback(), without_dashboard():
            context: Any = ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
    except Exception as error:  # Ray raises bare ones too, where the machine is too busy to start it in time, say
        raise ConnectionError(
            f"Ray cannot start on this machine ({message(error)}); it keeps its files in '{folder}', which the "
            f"environment variable RAY_TMPDIR moves"
        ) from error
    logs = os.path.join(context.address_info["session_dir"], "logs")
    return LocalRay(logs, [child for child in psutil.Process().children() if child not in before])


def end(here: LocalRay) -> None:
    """End Ray; no process of it is left, whatever has become of the others."""
    started: list[psutil.Process] = []
    for process in here.needed.values():
        with contextlib.suppress(psutil.Error):
            started += [process, *process.children(recursive=True)]
    with ending_by_force():
        ray.shutdown()
    for process in started:
        with contextlib.suppress(psutil.Error):
            process.kill()


@contextlib.contextmanager
def ending_by_force() -> Iterator[None]:
    """Let Ray end its processes by SIGKILL: it would wait a second for each to heed SIGTERM, but they are sheltered."""
    node = ray._private.worker._global_node
    kill = getattr(node, "kill_all_processes", None)
    if kill is None:
        yield
        return
    with replaced(node, "kill_all_processes", lambda **_: kill(check_alive=False, allow_graceful=False)):
        yield


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that starts meanwhile use the loopback interface.

    On Linux Ray takes 127.0.0.1 for a slip and looks for an address that others reach, by the way to a name server of
    Google's, and then listens on all interfaces. Its variable for this is named for the systems where it does not.
    """
    before = os.environ.get(STAYS_ON_LOOPBACK)
    os.environ[STAYS_ON_LOOPBACK] = "0"  # for its processes; this one has read it
    try:
        with replaced(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False):
            yield
    finally:
        del os.environ[STAYS_ON_LOOPBACK]
        if before is not None:
            os.environ[STAYS_ON_LOOPBACK] = before


@contextlib.contextmanager
def without_dashboard() -> Iterator[None]:
    """Let a Ray that starts meanwhile have no dashboard.

    Where it shall have none, Ray starts the process nevertheless, for the reports of usage that are switched off; it
    asks the metadata services of three clouds where it is.
    """
    with replaced(ray._private.services, "start_api_server", lambda *_, **__: ("", None)):
        yield


@contextlib.contextmanager
def replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Have an attribute of a module be something else for the length of a block, where this Ray's module has it."""
    if not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def temporary_folder() -> str:
    """Where a local Ray keeps sockets and logs: where it is told to, else where temporary files go if that is short."""
    if chosen := os.environ.get("RAY_TMPDIR"):
        return os.path.abspath(chosen)
    folder = tempfile.gettempdir()
    if len(folder.encode()) > LONGEST_FOLDER or not folder.isascii():
        folder = "/tmp"
    return os.path.join(folder, "ray" if os.access(os.path.join(folder, "ray"), os.W_OK) else f"ray-{os.getuid()}")


def keep_token_out_of_home() -> None:
    """Give Ray a token in the environment, unless there is one: it would otherwise leave one in the home folder.

    Every later `ray start` would find that one there and ask for it. The token is set once, for Ray keeps the first one
    that a process uses.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    with contextlib.suppress(RuntimeError, OSError):  # no home folder, or one that may not be looked into
        if (Path.home() / ".ray" / "auth_token").exists():
            return
    if not any(name in os.environ for name in names):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
