"""Networks of the run that a worker process keeps, so that stages with equal inputs read them once."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from orchestrator.storage.store import Store
from orchestrator.worker.hardware import device
from workloads.networks import checkpoints
from workloads.networks.checkpoints import Description
from workloads.structure.network import Network

F = TypeVar("F", bound=Callable[..., Any])
_KEPT: list[Any] = []


class LostNetwork(Exception):
    """The network that a stage left is gone or damaged: the stage has to run again.

    Attributes:
        key: of the stage.
    """

    def __init__(self, key: str, reason: Exception):
        super().__init__(f"the network of stage {key} is lost: {reason}")
        self.key = key


def kept_in_process(maxsize: int) -> Callable[[F], F]:
    """Keep the last few values of a function for later calls in this process, until `forget_networks`."""

    def wrap(function: F) -> F:
        kept: Any = functools.lru_cache(maxsize)(function)
        _KEPT.append(kept)
        return kept  # type: ignore[no-any-return]

    return wrap


def forget_networks() -> None:
    """Let go of what `kept_in_process` holds, for instance when the process moves to another GPU."""
    for kept in _KEPT:
        kept.cache_clear()
    torch.cuda.empty_cache()


@kept_in_process(maxsize=4)
def stored_network(uri: str, key: str) -> tuple[nn.Module, Description]:
    """A network from the store, on this worker's device; shared, so copy it before you change it.

    Raises:
        LostNetwork: it is gone or damaged.
    """
    try:
        model, description = checkpoints.loads(*Store(uri).read_network(key))
    except (FileNotFoundError, checkpoints.DamagedNetwork) as error:
        raise LostNetwork(key, error) from error
    return model.to(device()), description


@kept_in_process(maxsize=2)
def merged_network(uri: str, key: str, shape: tuple[int, int, int]) -> tuple[Network, Description]:
    """The same with batch-norm merged, and its groups; shared likewise."""
    model, description = stored_network(uri, key)
    return Network.prepared(model, torch.zeros(1, *shape, device=device())), description
