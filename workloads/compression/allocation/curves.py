"""What each group loses as its neurons go one after the other, on one scale for all groups."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workloads.compression.allocation.fisher import output_information
from workloads.compression.covariances import covariance_of
from workloads.compression.criteria.eliminating import backward_elimination
from workloads.structure.groups import CONSUMER, Group
from workloads.structure.layers import along_outputs, get_layer, rows
from workloads.structure.network import Network


def elimination_curves(
    network: Network, numbers: Sequence[int], images: Sequence[Tensor], seed: int
) -> Mapping[int, Tensor]:
    """By group, (n + 1,) float64: the estimated loss in nats once 0, 1, … n of its neurons are gone.

    Neurons go by backward elimination, the layers that read the group being solved again after each (see
    `criteria.eliminating`). Errors in what these layers make are weighted by the Fisher information of their outputs.

    Args:
        network: batch-norm merged.
        numbers: of the groups.
        images: batches (B, C, H, W).
        seed: of what is drawn.

    Raises:
        ValueError: no layer reads a group, or there is no image.
    """
    groups = [network.structure.groups[number] for number in numbers]
    for group in groups:
        if not any(group.on(CONSUMER)):
            raise ValueError(
                f"allocation 'elimination' cannot tell what group {group.number} ({group.kind}) loses, which no layer "
                f"reads: leave its kind out of kinds, or add it to ignore"
            )
    if not images:
        raise ValueError("allocation 'elimination' needs unlabelled images: give them as `images`")
    layers = dict.fromkeys(member.layer for group in groups for member in group.on(CONSUMER))
    information = output_information(network.model, layers, images, seed)
    return {group.number: curve(network, group, images, information, seed) for group in groups}


@torch.no_grad()
def curve(
    network: Network, group: Group, images: Sequence[Tensor], information: Mapping[str, Tensor], seed: int
) -> Tensor:
    """The same for one group."""
    consumers = list(group.on(CONSUMER))
    covariance = torch.zeros(group.size, group.size, dtype=torch.float64)
    weights = torch.zeros(group.size, group.size, dtype=torch.float64)
    for member in consumers:
        covariance += covariance_of(network.model, member, images, seed) / len(consumers)
        layer = get_layer(network.model, member.layer)
        scale = information[member.layer].sqrt().to(layer.weight.device)
        outgoing = rows(layer.weight.double() * along_outputs(layer, scale), member.axis, member.index)
        weights += (outgoing @ outgoing.T).cpu()
    _, costs = backward_elimination(covariance, weights)
    return torch.cat([torch.zeros(1, dtype=torch.float64), 0.5 * costs.clamp(min=0).cumsum(0)])
