"""Connecting to Ray, and what the machine or cluster has."""

import logging
import os
import socket
from typing import Any

import ray

from orchestrator.planning.plan import Plan
from orchestrator.settings.experiment import Experiment
from workloads.messages import message


def connect(address: str | None) -> bool:
    """Connect to Ray unless that is done; whether a local Ray was started that has to be stopped.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_task_oom_retries", "0")  # Ray's default is without end; see Dispatcher.postponed
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if chosen != "local":
        try:
            check_reachable(chosen)
            ray.init(address=chosen, **quiet)
        except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            raise ConnectionError(
                f"no Ray cluster answers at --address {chosen} ({message(error)}): start one with "
                f"`ray start --head`, give this node its token in ~/.ray/auth_token or RAY_AUTH_TOKEN, or leave the "
                f"option out to run on this machine alone"
            ) from error
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", include_dashboard=False, object_store_memory=256 * 1024**2, **quiet)
    return True


def check_reachable(address: str) -> None:
    """Fail at once where nothing listens at HOST:PORT; Ray itself would try for minutes.

    Raises:
        OSError: the host or port does not answer.
        ValueError: neither `auto` nor HOST:PORT.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is auto, local or HOST:PORT")
    socket.create_connection((host, int(port)), timeout=10).close()


def check_fits(experiment: Experiment, plan: Plan) -> None:
    """Refuse tasks that this machine could never run; a cluster may still grow, so there Ray waits for a node.

    Raises:
        ValueError: names the setting and what there is.
    """
    machine = ray.cluster_resources()
    for kind in plan.count():
        task = experiment.resources.task(kind)
        for name, wanted, there, unit in (
            ("cpus", task.cpus, machine.get("CPU", 0.0), "CPUs"),
            ("gpus", task.gpus, machine.get("GPU", 0.0), "GPUs"),
            ("memory", task.memory, machine["memory"] / 2**30, "GiB for tasks"),
        ):
            if wanted is not None and wanted > there:
                setting = f"resources.{kind.replace('-', '_')}.{name}"
                raise ValueError(f"'{setting}' is {wanted:g}, but this machine has {there:.4g} {unit}")
