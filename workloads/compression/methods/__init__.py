"""Compression methods: from a group's pairings, their importance and the size to reach, a pair of maps.

A method is a function of `(pairings, importance, m)` that returns `Maps`; its options are keyword-only arguments.
It may ask for `generator`, a seeded `torch.Generator`; for `model` and `group`, the network as it is; for `statistics`
of its layers' outputs, as `groups.merge_batch_norm` gives them; for `original`, the pair of network and group before
any group was compressed; and for `images`, unlabelled training batches. Importance and generator are on the CPU, all
else on the device of the network; maps may be on any. A user's own method gets copies (`plugins.Plugin`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from workloads.compression.methods.fusing import activation_folding, folding, fusion_preserving, intra_fusion
from workloads.compression.methods.reconstructing import reconstruction
from workloads.compression.methods.selecting import conventional, neuron_merging
from workloads.compression.pairings import Pairings
from workloads.config import Kind
from workloads.plugins import METHOD
from workloads.structure.groups import Group, Maps

METHODS: dict[str, Callable[..., Maps]] = {
    "conventional": conventional,
    "intra-fusion": intra_fusion,
    "fusion-preserving": fusion_preserving,
    "folding": folding,
    "activation-folding": activation_folding,
    "neuron-merging": neuron_merging,
    "reconstruction": reconstruction,
}


AVERAGING = {"intra-fusion", "fusion-preserving", "folding"}
"""Methods, or values of `producing`, that make new neurons of several old ones."""
PRODUCTS: tuple[Kind, ...] = ("heads", "query-key")
"""Kinds of groups in which what two layers make is multiplied with each other, so that an average has no meaning."""


def check_kind(name: str, options: Mapping[str, Any] | None, kind: str) -> None:
    """Refuse a method that makes no sense for groups of a kind.

    Raises:
        ValueError: names the method and the kind.
    """
    averaging = {name, (options or {}).get("producing")} & AVERAGING
    if kind in PRODUCTS and averaging:
        raise ValueError(
            f"method '{name}' averages neurons, which has no meaning for groups of kind {kind}, whose queries and keys "
            f"are multiplied with each other: choose conventional, neuron-merging or reconstruction for them, or leave "
            f"{kind} out of kinds"
        )


def maps(
    name: str,
    pairings: Pairings,
    importance: Tensor,
    m: int,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> Maps:
    """The maps of a method that take a group from n to m pairings; the identity where m = n.

    Args:
        name: registered method or `package.module:function`.
        pairings: the group's weights, batch-norm merged.
        importance: (n,) scores.
        m: pairings to keep, 1 ≤ m ≤ n.
        seed: of the generator for methods that draw.
        options: further keyword arguments of the method.
        context: what methods may ask for besides the generator, by name.

    Raises:
        ValueError: unknown method, one that makes no sense for the kind of the group, or maps that are not m × n
            finite numbers.
    """
    method = METHOD.plugin(name, options)
    if m == pairings.size:
        identity = torch.eye(m)
        return Maps(identity, identity)
    if isinstance(group := (context or {}).get("group"), Group):
        check_kind(name, options, group.kind)
    offered = {"generator": torch.Generator().manual_seed(seed), **(context or {})}
    method.check_given(batches=offered.get("batches"), images=offered.get("images"))
    found = method(pairings, importance, m, **offered)
    if not isinstance(found, Maps):
        raise ValueError(f"method '{name}' gave {type(found).__name__}: it has to return workloads.groups.Maps(P, Q)")
    each = {"P": found.P, **({"Q": found.Q} if isinstance(found.Q, Tensor) else found.Q)}
    for side, matrix in each.items():
        if matrix.shape != (m, pairings.size):
            raise ValueError(
                f"method '{name}' gave a map {side} of shape {tuple(matrix.shape)}; from {pairings.size} to {m} "
                f"pairings it has to be {(m, pairings.size)}"
            )
        if not bool(matrix.isfinite().all()):
            raise ValueError(f"method '{name}' gave a map {side} that is not finite")
    return found
