"""The time of a forward pass, measured once in a run for all networks of equal layers and widths on equal devices.

A network's time depends on its shape and not on its weights. If every worker measured for itself, networks of one shape
would seem to differ by what happened to run beside them.
"""

import contextlib
import hashlib
import json
from typing import Any

import torch
from torch import nn

from orchestrator.storage.store import StorageError, Store
from orchestrator.worker.environment import environment
from workloads.measuring.latency import OtherWork, latency, other_gpu_processes
from workloads.networks.checkpoints import Description

BATCHES = (1, 64)
FOLDER = "latencies"

_known: dict[tuple[str, str], dict[str, Any]] = {}


def latencies(store: Store, model: nn.Module, description: Description, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The columns of `evaluations` on measured time, of the first network with this shape that the run measured.

    Args:
        store: of the run, which keeps the measurement of each shape.
        model, description: the network.
        shape: of an image, (C, H, W).
    """
    device = environment()["gpu"] or environment()["processor"]
    key = shape_key(model, description, shape, device)
    if (store.uri, key) not in _known:
        _known[store.uri, key] = shared(store, key) or measured(store, key, model, shape)
    return {**_known[store.uri, key], "device": device}


def shape_key(model: nn.Module, description: Description, shape: tuple[int, int, int], device: str) -> str:
    """What networks have in common that take equally long: layers, widths, images, device and threads."""
    widths = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    place = [description.model, widths, shape, device, torch.get_num_threads()]
    return hashlib.sha256(json.dumps(place, sort_keys=True).encode()).hexdigest()[:20]


def shared(store: Store, key: str) -> dict[str, Any] | None:
    """What a worker of the run measured; None where none has yet."""
    try:
        found: dict[str, Any] = json.loads(store.read(FOLDER, f"{key}.json"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def measured(store: Store, key: str, model: nn.Module, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Measure a network and leave the result for the others; where one of them was first, take theirs."""
    row: dict[str, Any] = {}
    others = OtherWork()
    for batch in BATCHES:
        found = latency(model, shape, batch)
        row |= {f"latency_{batch}": found.milliseconds}
        row |= {f"latency_{batch}_low": found.low, f"latency_{batch}_high": found.high}
    device = next(model.parameters()).device
    row["latency_others"] = others.cores()
    row["latency_others_gpu"] = other_gpu_processes(device) if device.type == "cuda" else None
    with contextlib.suppress(StorageError):  # what has to be written later will say what is wrong
        store.write_once(json.dumps(row).encode(), FOLDER, f"{key}.json")
    return shared(store, key) or row
