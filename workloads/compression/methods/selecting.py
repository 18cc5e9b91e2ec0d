"""Methods that keep some pairings as they are."""

import torch
from torch import Tensor

from workloads.compression.pairings import Pairings
from workloads.structure.groups import Maps


def most_important(importance: Tensor, m: int) -> Tensor:
    """(m,) the pairings of highest importance in ascending order; of equal ones the earlier."""
    return importance.argsort(descending=True, stable=True)[:m].sort().values


def conventional(pairings: Pairings, importance: Tensor, m: int) -> Maps:
    """Keep the m most important pairings and drop the rest; the paper's `default`."""
    kept = most_important(importance, m)
    selection = torch.eye(pairings.size)[kept]
    return Maps(selection, selection)


def neuron_merging(pairings: Pairings, importance: Tensor, m: int, *, threshold: float = 0.0) -> Maps:
    """Keep the m most important pairings; the others' outgoing weights go to the most alike of them (Kim et al. 2020).

    Args:
        pairings: the group's weights.
        importance: (n,) scores.
        m: pairings to keep.
        threshold: least cosine between incoming vectors, biases included, at which a neuron is merged rather than
            dropped; a rectified neuron stands in for another only as far as they point the same way.

    Returns:
        P the kept rows of the identity; Q the same plus, for each other pairing, the ratio of its norm to its
        survivor's.
    """
    kept = most_important(importance, m)
    selection = torch.eye(pairings.size)[kept]
    incoming = torch.cat([pairings.incoming, pairings.bias], 1).cpu()
    norms = incoming.norm(dim=1)
    directions = incoming / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None]
    cosine, survivor = (directions[kept] @ directions.T).max(0)
    merged = (cosine > threshold) & (norms[kept][survivor] > 0)
    merged[kept] = False
    (others,) = merged.nonzero(as_tuple=True)
    merging = selection.clone()
    merging[survivor[others], others] = (norms[others] / norms[kept][survivor[others]]).to(merging)
    return Maps(selection, merging)
