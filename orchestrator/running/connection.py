"""Connecting to Ray, and what the machine or cluster has."""

import contextlib
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray

from orchestrator.planning.plan import Plan
from orchestrator.running.cluster import reserved
from orchestrator.running.signals import sheltered
from orchestrator.settings.experiment import Experiment
from orchestrator.stages import kinds
from workloads.messages import message

CONNECT_SECONDS = 15
LONGEST_FOLDER = 40  # characters: Ray puts sockets under it, whose paths the system limits to about 107


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """Be connected to Ray for the length of a block; whether a local Ray was started for it, which then ends with it.

    Args:
        address: `local`, `auto` or HOST:PORT; None is RAY_ADDRESS, or `local`.

    Raises:
        ConnectionError: there is no cluster at the address, or Ray cannot start here.
    """
    if ray.is_initialized():
        yield False
        return
    os.environ.setdefault("RAY_task_oom_retries", "0")  # Ray's default is without end; see Dispatcher.postponed
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    if chosen != "local":
        join(chosen, "--address" if address else "the environment variable RAY_ADDRESS")
        yield False
        return
    keep_token_out_of_home()
    start_local()
    try:
        yield True
    finally:
        ray.shutdown()


def join(address: str, origin: str) -> None:
    """Connect to the cluster at `auto` or HOST:PORT, which `origin` says.

    Raises:
        ConnectionError: there is none.
    """
    try:
        check_reachable(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address}, which {origin} names ({message(error)}): start one with "
            f"`ray start --head`, give this node its token in ~/.ray/auth_token or RAY_AUTH_TOKEN, or give "
            f"--address local to run on this machine alone"
        ) from error


def start_local() -> None:
    """Start Ray on this machine, for this process alone: it listens on the loopback interface and asks nobody outside.

    Raises:
        ConnectionError: it cannot start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = temporary_folder()
    try:
        with sheltered():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=256 * 1024**2,
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


def check_reachable(address: str) -> None:
    """Fail at once where no head of a Ray cluster listens at HOST:PORT; Ray would try for minutes.

    Raises:
        OSError: the host or port does not answer, or something else does.
        ValueError: neither `auto` nor HOST:PORT.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is auto, local or HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    secured = os.environ.get("RAY_USE_TLS", "0") != "0"
    if not secured and not address.startswith("ray://") and not is_head(f"{host}:{port}"):
        raise OSError(f"what listens at {host}:{port} is no head of a Ray cluster")


def is_head(address: str) -> bool:
    """Whether the head of a Ray cluster answers at HOST:PORT, be it that it wants a token first."""
    import grpc  # here, as a local run never needs it
    from ray.core.generated import gcs_service_pb2

    service = gcs_service_pb2.DESCRIPTOR.services_by_name.get("NodeInfoGcsService")
    method = service and service.methods_by_name.get("CheckAlive")
    if method is None:
        return True  # this Ray asks otherwise
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(f"/{service.full_name}/{method.name}")(b"", timeout=CONNECT_SECONDS)
        except grpc.RpcError as error:
            return error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    return True


def check_fits(experiment: Experiment, plan: Plan) -> None:
    """Refuse tasks that this machine could never run; a cluster may still grow, so there Ray waits for a node.

    Raises:
        ValueError: names the setting and what there is.
    """
    machine = ray.cluster_resources()
    there = {"CPU": machine.get("CPU", 0.0), "GPU": machine.get("GPU", 0.0), "memory": machine["memory"]}
    for kind in plan.count():
        task = experiment.resources.task(kind)
        each = reserved(task, kinds()[kind].gpus if there["GPU"] else 0.0)
        for name, setting, given, unit, size in (
            ("GPU", "gpus", task.gpus, "GPUs", 1),  # first, as it may be what asks for several workers
            ("CPU", "cpus", task.cpus, "CPUs", 1),
            ("memory", "memory", task.memory, "GiB for tasks", 2**30),
        ):
            wanted = each[name] * task.processes
            if wanted <= there[name]:
                continue
            place = f"resources.{kind.replace('-', '_')}"
            if given is None or given * size < wanted:  # the number of workers asks for more
                setting, given = "workers", task.processes
            raise ValueError(f"'{place}.{setting}' is {given:g}, but this machine has {there[name] / size:.4g} {unit}")
