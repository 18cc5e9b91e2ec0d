"""Trying out the fusions of an experiment before anything runs: what cannot be fused is refused in `plan`."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from orchestrator.planning.trying import IMAGES, explained, prepared
from orchestrator.settings.experiment import Experiment
from workloads.compression import Sources
from workloads.config import FusionConfig, ModelConfig
from workloads.data.samples import Dataset
from workloads.fusion.agreement import check_fusable
from workloads.fusion.fuse import compressed
from workloads.fusion.rotation import with_plain_norms
from workloads.structure.groups import Structure


def fusions(experiment: Experiment) -> list[FusionConfig]:
    """The different fusions that the grids of an experiment ask for."""
    asked = [
        fusion
        for grid in experiment.pruning
        if set(grid.pipelines or experiment.pipelines) - {"whole-data"}
        for fusion in grid.fusion or experiment.fusion
    ]
    return [fusion for number, fusion in enumerate(asked) if fusion not in asked[:number]]


def try_fusions(
    experiment: Experiment, config: ModelConfig, networks: Sequence[tuple[nn.Module, Structure]], dataset: Dataset
) -> None:
    """Look whether the networks can be fused, and try the method of a fusion on one group of them.

    Args:
        networks: the parents with their groups, or one network that stands for all split models; not changed.
        dataset: for the shape of its images and the number of its classes; no image is read.

    Raises:
        ValueError: they cannot be fused; says which fusion, of which network, and why.
    """
    pairs = list(networks) * (2 if len(networks) == 1 else 1)
    models, structures = [model for model, _ in pairs], [structure for _, structure in pairs]
    for fusion in fusions(experiment):
        with explained(f"fusion '{fusion.label}' cannot fuse networks of model '{config.name}'"):
            check_fusable(models, structures, fusion)
            if fusion.residual == "rotation":
                for model, structure in pairs:
                    with_plain_norms(prepared(copy.deepcopy(model), structure), torch.zeros(1, *dataset.shape))
            if fusion.method:
                try_method(fusion, pairs, dataset)


def try_method(fusion: FusionConfig, pairs: Sequence[tuple[nn.Module, Structure]], dataset: Dataset) -> None:
    """Put the networks side by side, and bring the smallest group to the width that it has in the first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images, labels = torch.randn(IMAGES, *dataset.shape), torch.arange(IMAGES) % len(dataset.classes)
        sources = Sources(images[:1], batches=[(images, labels)], images=[images])
        networks = [prepared(copy.deepcopy(model), structure) for model, structure in pairs]
        smallest = min(pairs[0][1].groups, key=lambda group: group.size).number
        compressed(networks, [1.0] * len(networks), [images], fusion, sources, only=[smallest])
