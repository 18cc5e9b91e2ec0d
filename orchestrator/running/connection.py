"""Connecting to Ray, and what the machine or cluster has."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import ray

from orchestrator.planning.plan import Plan
from orchestrator.running.cluster import reserved
from orchestrator.running.local_ray import LocalRay, local_ray
from orchestrator.running.signals import handlers_kept
from orchestrator.settings.experiment import Experiment
from orchestrator.stages import kinds
from workloads.messages import message

CONNECT_SECONDS = 15


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[LocalRay | None]:
    """Be connected to Ray for the length of a block; yields the local Ray where one was started for it, and ends it.

    Args:
        address: `local`, `auto` or HOST:PORT; None is RAY_ADDRESS, or `local`.

    Raises:
        ConnectionError: there is no cluster at the address, or Ray cannot start here.
    """
    if ray.is_initialized():
        yield None
        return
    os.environ.setdefault("RAY_task_oom_retries", "0")  # Ray's default is without end; see Dispatcher.postponed
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    if chosen != "local":
        join(chosen, "--address" if address else "the environment variable RAY_ADDRESS")
        yield None
        return
    with local_ray() as here:
        yield here


def join(address: str, origin: str) -> None:
    """Connect to the cluster at `auto` or HOST:PORT, which `origin` says.

    Raises:
        ConnectionError: there is none.
    """
    try:
        check_reachable(address)
        with handlers_kept():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address}, which {origin} names ({message(error)}): start one with "
            f"`ray start --head`, give this node its token in ~/.ray/auth_token or RAY_AUTH_TOKEN, or give "
            f"--address local to run on this machine alone"
        ) from error


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
