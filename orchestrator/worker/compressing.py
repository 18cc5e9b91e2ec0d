"""What stages that compress a network and those that search for its widths have in common."""

from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from orchestrator.storage.store import Store
from orchestrator.worker.networks import LostNetwork
from orchestrator.worker.task import without_code
from orchestrator.worker.work import Work
from workloads.config import CompressionConfig
from workloads.networks.checkpoints import Description
from workloads.structure.network import Network


def compression_config(work: Work) -> CompressionConfig:
    """The settings of a compression that a stage does, or finds the widths for."""
    settings = {name: work.parameters[name] for name in CompressionConfig.model_fields if name in work.parameters}
    settings |= {part: without_code(settings[part]) for part in ("criterion", "method") if part in settings}
    return CompressionConfig(**settings)


def widths_before(base: Network, description: Description) -> list[int]:
    """Pairings of each group before any pruning."""
    widths = [group.size for group in base.structure.groups]
    widths[: len(description.widths)] = description.widths  # older networks do not know groups of later kinds
    return widths


def sizes_as_bytes(sizes: Mapping[int, int]) -> bytes:
    """Widths by group, as a stage leaves them for others: safetensors."""
    numbers, widths = (torch.tensor(list(part), dtype=torch.int64) for part in (sizes.keys(), sizes.values()))
    return safetensors.torch.save({"groups": numbers, "widths": widths})


def stored_sizes(uri: str, key: str) -> dict[int, int]:
    """The widths that a stage left.

    Raises:
        LostNetwork: they are gone or damaged.
    """
    try:
        content, _ = Store(uri).read_network(key)
        found: dict[str, Any] = safetensors.torch.load(content)
        return dict(zip(found["groups"].tolist(), found["widths"].tolist(), strict=True))
    except (FileNotFoundError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise LostNetwork(key, error) from error
