"""Fusing whole networks into one: aligned group by group, then averaged (Singh & Jaggi 2020); or side by side, as one
network of all their neurons, compressed to the width of one."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.compression.calls import output_moments
from workloads.compression.compress import Sources, compress
from workloads.compression.repair import anchor_batch_norms, average_statistics, match_statistics, repaired_layers
from workloads.config import KINDS, CompressionConfig, FusionConfig
from workloads.fusion.agreement import check_fusable
from workloads.fusion.alignment import align, forward_order
from workloads.fusion.rotation import with_plain_norms
from workloads.fusion.stacking import side_by_side
from workloads.structure.groups import Structure
from workloads.structure.layers import get_layer, made_dim, resize
from workloads.structure.network import Network


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


def by_width(structures: Sequence[Structure], accuracies: Sequence[float] | None = None) -> list[int]:
    """Networks from the narrowest on, which the others are fused onto; of equally wide ones the most accurate first."""
    accurate = accuracies or [0.0] * len(structures)
    widths = [sum(group.size for group in structure.groups) for structure in structures]
    return sorted(range(len(structures)), key=lambda k: (widths[k], -accurate[k]))


def fuse(
    models: Sequence[nn.Module | Network],
    structures: Sequence[Structure] | None = None,
    images: Sequence[Tensor] | Tensor = (),
    config: FusionConfig | None = None,
    accuracies: Sequence[float] | None = None,
    sources: Sources | None = None,
) -> nn.Module:
    """One network from several of one architecture: aligned to the anchor, then averaged; or by `config.method`.

    The anchor is the narrowest network; of equally wide ones the most accurate, or the first.

        fused = fuse([one, other], images=images)

    Args:
        models: networks as they are, or prepared; none is changed. Widths may differ.
        structures: of models whose batch-norm is merged; None where they are not prepared, or are of class `Network`.
        images: normalised training batches (B, C, H, W), or one of them, for the activations and for the repair.
        config: how they are aligned, averaged and repaired.
        accuracies: percent, of each model; None counts as equal.
        sources: what the criterion and the method may look at besides; None is the images alone.

    Raises:
        ValueError: the networks are not of one architecture, have neurons that cannot be aligned (see
            `check_fusable`), differ in widths where nothing aligns them, or lack the images that the config asks for.
    """
    config = config or FusionConfig()
    images = [images] if isinstance(images, Tensor) else list(images)
    networks = ready(models, structures, images, config)
    accurate = accuracies or [0.0] * len(networks)
    order = by_width([network.structure for network in networks], accuracies)
    weighted = config.weights == "accuracy" and any(accurate)
    shares = [accurate[k] if weighted else 1.0 for k in order]
    networks = [networks[k] for k in order]
    if config.method is not None:
        return compressed(networks, shares, images, config, sources)
    return Aligned(networks, shares, images, config).average(shares)


def ready(
    models: Sequence[nn.Module | Network],
    structures: Sequence[Structure] | None,
    images: Sequence[Tensor],
    config: FusionConfig,
) -> list[Network]:
    """The networks in the order given, prepared and with equal biases, once it is clear that they can be fused.

    Raises:
        ValueError: see `fuse`.
    """
    networks = prepared(models, structures, images)
    check_fusable([network.model for network in networks], [network.structure for network in networks], config)
    if needs_images(config) and not images:
        raise ValueError("this fusion looks at activations: give `images`, or a config that needs none")
    if config.residual == "rotation":
        networks = [with_plain_norms(network, images[0][:1]) for network in networks]
    return with_equal_biases(networks)


def prepared(
    models: Sequence[nn.Module | Network], structures: Sequence[Structure] | None, images: Sequence[Tensor]
) -> list[Network]:
    """The networks with batch-norm merged and their groups."""
    if structures is not None:
        pairs = zip(models, structures, strict=True)
        return [each if isinstance(each, Network) else Network(each, structure, {}) for each, structure in pairs]
    if not images and not all(isinstance(each, Network) for each in models):
        raise ValueError("networks are fused on images of their size: give `images`, or `Network.prepared(...)`")
    return [each if isinstance(each, Network) else Network.prepared(each, images[0][:1]) for each in models]


def needs_images(config: FusionConfig) -> bool:
    """Whether images are looked at, and be it for their shape."""
    looks = config.repair is True or config.alignment == "activations" or config.residual == "rotation"
    return looks or config.method is not None


@torch.no_grad()
def with_equal_biases(networks: Sequence[Network]) -> list[Network]:
    """The networks, each with a bias, if only of zeros, in every layer that has one in some of them.

    Some methods and repairs of compression give layers a bias that had none.
    """
    biased = [
        {name for name, layer in layers_of(network) if layer._parameters["bias"] is not None} for network in networks
    ]
    result = []
    for network, own in zip(networks, biased, strict=True):
        lacking = set().union(*biased) - own
        if lacking:
            network = network._replace(model=copy.deepcopy(network.model))
        for name in sorted(lacking):
            layer = get_layer(network.model, name)
            resize(layer, "bias", layer.weight.new_zeros(layer.weight.shape[made_dim(layer)]))
        result.append(network)
    return result


def layers_of(network: Network) -> list[tuple[str, nn.Module]]:
    """The layers that can have a weight and a bias, by name."""
    named = network.model.named_modules()
    return [(name, layer) for name, layer in named if {"weight", "bias"} <= set(layer._parameters.keys())]


class Aligned:
    """Networks that are aligned to the first of them.

    Attributes:
        models: of the first one's widths; the first is as it was.
    """

    def __init__(
        self, networks: Sequence[Network], shares: Sequence[float], images: Sequence[Tensor], config: FusionConfig
    ):
        """Align them.

        Args:
            networks: ready; the first is in no group the wider one.
            shares: weights of the average so far, which a `running` alignment aims at.
            images, config: as `fuse` has them.
        """
        self.structure, self.images = networks[0].structure, images
        self.models = [copy.deepcopy(networks[0].model)]
        for network in networks[1:]:
            target = average(self.models, shares[: len(self.models)]) if config.onto == "running" else self.models[0]
            self.models.append(align(target, network.model, (self.structure, network.structure), images, config))
        layers = repaired_layers(self.structure) if config.repair else []
        self.statistics = [output_moments(model, layers, images) for model in self.models] if config.repair else []

    def average(self, shares: Sequence[float], of_statistics: Sequence[float] | None = None) -> nn.Module:
        """Their average, its statistics repaired where the fusion asks for it.

        Args:
            shares: weights of the average.
            of_statistics: weights of the average of their statistics, which sum to one; None is equal ones.
        """
        fused = average(self.models, shares)
        if self.statistics:
            wanted = average_statistics(self.statistics, of_statistics)
            match_statistics(fused, wanted, self.images)
            anchor_batch_norms(fused, self.structure, wanted)
        return fused


def compressed(
    networks: Sequence[Network],
    shares: Sequence[float],
    images: Sequence[Tensor],
    config: FusionConfig,
    sources: Sources | None,
    only: Sequence[int] | None = None,
) -> nn.Module:
    """The networks side by side, compressed group by group to the widths of the first, from the input on.

    Args:
        networks, shares, images, config, sources: as `fuse` has them.
        only: numbers of the groups to compress, for a trial; None is all.
    """
    assert config.method is not None
    example = images[0][:1]
    wide = side_by_side(networks, [share / sum(shares) for share in shares], example)
    order = forward_order(wide.structure) if only is None else only
    narrow = compress(
        wide,
        CompressionConfig(
            sparsity=0,
            kinds=KINDS,
            criterion=config.criterion,
            method=config.method,
            repair=config.repair_of_method,
        ),
        sources or Sources(example, images=images),
        sizes={number: networks[0].structure.groups[number].size for number in order},
    )
    layers = [layer for layer, _ in narrow.structure.normalised]
    anchor_batch_norms(narrow.model, narrow.structure, output_moments(narrow.model, layers, images))
    return narrow.model
