"""Fusing whole networks into one: aligned group by group, then averaged (Singh & Jaggi 2020)."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.compression.calls import output_moments
from workloads.compression.repair import anchor_batch_norms, average_statistics, match_statistics, repaired_layers
from workloads.config import FusionConfig
from workloads.fusion.alignment import align
from workloads.structure.groups import Structure


def average(models: Sequence[nn.Module], weights: Sequence[float] | None = None) -> nn.Module:
    """A network whose weights are the mean of those of networks of the same shape.

    Args:
        models: the networks.
        weights: of the mean; None is equal ones.
    """
    fused = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    shares = torch.tensor(weights or [1.0] * len(models), dtype=torch.float64)
    shares = shares / shares.sum()
    means = {
        name: torch.einsum("k,k...->...", shares.to(value), torch.stack([state[name] for state in states]))
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
    fused.load_state_dict(means)
    return fused


def fuse(
    models: Sequence[nn.Module],
    structures: Sequence[Structure],
    images: Sequence[Tensor],
    config: FusionConfig | None = None,
    accuracies: Sequence[float] | None = None,
) -> nn.Module:
    """One network from several of one architecture: aligned to the anchor, then averaged.

    The anchor is the narrowest network; of equally wide ones the most accurate, or the first.

    Args:
        models: batch-norm merged; widths may differ.
        structures: theirs.
        images: normalised training batches, for the activations and for the repair.
        config: how they are aligned, averaged and repaired.
        accuracies: percent, of each model; None counts as equal.
    """
    config = config or FusionConfig()
    structures = [structure.of_kinds(("channels", "hidden")) for structure in structures]
    accurate = accuracies or [0.0] * len(models)
    widths = [sum(group.size for group in structure.groups) for structure in structures]
    order = sorted(range(len(models)), key=lambda k: (widths[k], -accurate[k]))
    weighted = config.weights == "accuracy" and any(accurate)
    shares = [accurate[k] if weighted else 1.0 for k in order]
    structure = structures[order[0]]
    parts = [copy.deepcopy(models[order[0]])]
    for k in order[1:]:
        target = average(parts, shares[: len(parts)]) if config.onto == "running" else parts[0]
        parts.append(align(target, models[k], (structure, structures[k]), images, config))
    fused = average(parts, shares)
    if config.repair:
        layers = repaired_layers(structure)
        wanted = average_statistics([output_moments(part, layers, images) for part in parts])
        match_statistics(fused, wanted, images)
        anchor_batch_norms(fused, structure, wanted)
    return fused
