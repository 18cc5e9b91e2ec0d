"""What stages that compress a network and those that search for its widths have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from orchestrator.storage.store import Store
from orchestrator.worker.networks import LostNetwork
from orchestrator.worker.task import Task, without_code
from orchestrator.worker.work import Work
from workloads.compression.allocation.greedy import Narrowed
from workloads.compression.budgets import Budget
from workloads.compression.choosing import chosen_groups
from workloads.compression.group_sizes import widths
from workloads.compression.sources import Sources
from workloads.config import CompressionConfig
from workloads.networks.checkpoints import Description
from workloads.structure.groups import Group
from workloads.structure.network import Network


def compression_config(work: Work) -> CompressionConfig:
    """The settings of a compression that a stage does, or finds the widths for; without a sparsity, it is 0."""
    settings = {name: work.parameters[name] for name in CompressionConfig.model_fields if name in work.parameters}
    settings |= {part: without_code(settings[part]) for part in ("criterion", "method") if part in settings}
    return CompressionConfig(**{"sparsity": 0.0, **settings})


def search_sources(task: Task, work: Work, description: Description) -> Sources:
    """What a search may look at, beside what a compression may: images that are held back for it."""
    return replace(
        task.sources(work),
        held_back=lambda count: task.held_back_images(work, count),
        milliseconds=lambda model: task.milliseconds(model, description),
    )


def widths_before(base: Network, description: Description) -> list[int]:
    """Pairings of each group before any pruning."""
    widths = [group.size for group in base.structure.groups]
    widths[: len(description.widths)] = description.widths  # older networks do not know groups of later kinds
    return widths


def allocation_row(
    group: Group, before: Sequence[int], *, width: int, uniform: int | None, loss: float | None, why: str
) -> dict[str, Any]:
    """A row of `allocations`; `before` are the pairings of all groups before any pruning."""
    return {
        "of_group": group.number,
        "layer": group.layers[0],
        "neurons": before[group.number],
        "width": width,
        "uniform_width": uniform,
        "loss": loss,
        "why": why,
    }


def rows_of_thresholds(
    base: Network, config: CompressionConfig, pruned: Network, before: Sequence[int], budget: Budget | None
) -> list[dict[str, Any]]:
    """The widths that thresholds on scores have left, beside equal shares, unless these would have to be timed.

    Args:
        base: before this compression.
        pruned: after it.
        before: pairings of each group before any pruning.
        budget: what the sparsity is a share of; None: the pairings.
    """
    whose = "all groups" if config.allocation == "global" else "all groups of equal structure"
    why = f"one threshold on the scores of {whose} by {config.criterion.label}"
    groups = [base.structure.groups[number] for number in chosen_groups(base.structure, config)]
    same: Sequence[int | None] = [None] * len(groups)
    if config.sparsity_of != "latency" and isinstance(config.sparsity, float):
        originals = [before[group.number] for group in groups]
        same = widths(groups, originals, config.sparsity, budget=budget, round_to=config.round_to)
    left = [pruned.structure.groups[group.number].size for group in groups]
    return [
        allocation_row(group, before, width=width, uniform=uniform, loss=None, why=why)
        for group, width, uniform in zip(groups, left, same, strict=True)
    ]


def sizes_as_bytes(sizes: Mapping[int, int], steps: Narrowed | None = None) -> bytes:
    """Widths by group, as a stage leaves them for others: safetensors; with what its steps have cost, if it has any."""
    numbers, widths = (torch.tensor(list(part), dtype=torch.int64) for part in (sizes.keys(), sizes.values()))
    tensors = {"groups": numbers, "widths": widths}
    if steps is not None:
        tensors["losses"] = torch.tensor([steps.losses.get(number, 0.0) for number in sizes], dtype=torch.float64)
        tensors["steps"] = torch.tensor([steps.steps.get(number, 0) for number in sizes], dtype=torch.int64)
    return safetensors.torch.save(tensors)


def curve_as_bytes(curve: Tensor) -> bytes:
    """What a group loses as its neurons go, (n + 1,), likewise."""
    return safetensors.torch.save({"losses": curve})


def stored_sizes(uri: str, key: str) -> dict[int, int]:
    """The widths that a stage left.

    Raises:
        LostNetwork: they are gone or damaged.
    """
    numbers, widths = stored(uri, key, "groups", "widths")
    return dict(zip(numbers.tolist(), widths.tolist(), strict=True))


def stored_steps(uri: str, key: str) -> Narrowed:
    """Where a search stood that left its widths, likewise."""
    numbers, *parts = stored(uri, key, "groups", "widths", "losses", "steps")
    sizes, losses, steps = (dict(zip(numbers.tolist(), part.tolist(), strict=True)) for part in parts)
    return Narrowed(sizes, losses, steps)


def stored_curve(uri: str, key: str) -> Tensor:
    """What a group loses as its neurons go, (n + 1,), likewise."""
    return stored(uri, key, "losses")[0]


def stored(uri: str, key: str, *names: str) -> list[Tensor]:
    """Tensors that a stage left, all but a curve of one length.

    Raises:
        LostNetwork: they are gone or damaged.
    """
    try:
        content, _ = Store(uri).read_network(key)
        found: dict[str, Tensor] = safetensors.torch.load(content)
        tensors = [found[name] for name in names]
        if len({len(tensor) for tensor in tensors}) > 1:
            raise ValueError(f"{' and '.join(names)} are not of one length")
        return tensors
    except (FileNotFoundError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise LostNetwork(key, error) from error
