"""How worker processes that train a network together find each other, and agree which of them failed first."""

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import timedelta

import psutil
import ray
from torch.distributed import TCPStore  # type: ignore[attr-defined] # documented, though not in `__all__`
from torch.distributed.distributed_c10d import Store

from orchestrator.worker.hardware import device
from orchestrator.worker.work import Member
from workloads.training.parallel import ALONE, PATIENCE, Rank, process_group

FAILURES = "failures"
ANSWER_SECONDS = 20  # for the place that counts failures; it is gone where the task that opened it is


class PartnerFailed(Exception):
    """Another of the processes that train together has failed before; what went wrong here follows from that."""


def opened_meeting_place() -> TCPStore:
    """A place on this node, for as long as it is kept.

    It listens on the address by which Ray's nodes reach this one, and on no other.
    """
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listening:
        port = listening.getsockname()[1]
        opened = os.dup(listening.fileno())
        return TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=opened)


def failed_together(place: Store) -> bool:
    """Whether a process has failed while it trained with the others."""
    return place.add(FAILURES, 0) > 0


@contextlib.contextmanager
def joined(member: Member | None) -> Iterator[Rank]:
    """Be one of the processes that train together, for the length of a block; the only one where `member` is None.

    Raises:
        PartnerFailed: the block failed, and another process had failed before.
    """
    if member is None:
        yield ALONE
        return
    name_interface_to_gloo()
    place = TCPStore(*member.address, is_master=False, wait_for_workers=False, timeout=PATIENCE)
    try:
        with process_group(place, member.number, member.count, device()) as rank:
            yield rank
    except Exception as error:
        place.set_timeout(timedelta(seconds=ANSWER_SECONDS))
        if place.add(FAILURES, 1) > 1:
            raise PartnerFailed("another process that trains along has failed") from error
        raise


def name_interface_to_gloo() -> None:
    """Let gloo talk by the interface that Ray's nodes reach this one by, unless the environment names one.

    It would otherwise take what the host's own name stands for, which on many hosts is the loopback interface.
    """
    here = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == here for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
