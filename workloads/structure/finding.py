"""Finding the groups of a network: the channels that belong together, and those that must stay as they are."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from workloads.structure.groups import CONSUMER, Group, Member, Structure
from workloads.structure.recording import Flow
from workloads.structure.trial import fitting


def trace(model: nn.Module, example: Tensor) -> Structure:
    """Find the groups of a network by running it once on `example` (1, C, H, W).

    Groups come in the paper's order: from the last layer backwards, the classifier left out. Groups that cannot be
    pruned are kept as they are and named in `Structure.kept`.

    Raises:
        ValueError: the network does not return a tensor, or none of its groups can be pruned.
    """
    flow = Flow(model.eval())
    with torch.random.fork_rng(devices=[]):  # for layers that draw in evaluation mode too
        flow.run(example)
    found: list[tuple[str, Group]] = []
    kept: list[tuple[str, str]] = []
    covered: set[int] = set()
    for name, _ in reversed(list(model.named_modules())):
        if name not in flow.made_by or (root := flow.layers.find(flow.owners[int(flow.made_by[name][0])])) in covered:
            continue
        covered.add(root)
        sides = members(flow, root)
        reason = obstacle(flow, root, sides)
        if reason:
            kept.append((name, reason))
        elif reason is None and isinstance(sides, tuple) and any(member.side == CONSUMER for member in sides):
            found.append((name, Group(len(found), len(sides[0].index), sides)))
    groups, refused = fitting(model, found, example)
    kept += refused
    if not groups:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in kept[:3])
        raise ValueError(f"none of its layers can be pruned{f' ({reasons})' if reasons else ''}")
    return Structure(tuple(groups), tuple(normalised(flow)), tuple(kept))


def normalised(flow: Flow) -> Iterator[tuple[str, str]]:
    """Layers with the batch-norms that alone read their outputs."""
    for output in flow.made:
        if output.norm is None or {output.layer, output.norm} & flow.misused.keys():
            continue
        if output.readers == 1 and flow.called[output.layer] == flow.called[output.norm] == 1:
            yield output.layer, output.norm


def members(flow: Flow, root: int) -> tuple[Member, ...] | str:
    """The sides of layers that hold the channels of a group; or the layer that holds them unevenly."""
    found: dict[tuple[str, str], Member] = {}
    rows: dict[int, int] = {}
    for call in flow.calls:
        places: dict[int, list[tuple[int, int]]] = {}
        for channel, label in enumerate(call.channels.tolist()):
            if label >= 0 and flow.layers.find(flow.owners[label]) == root:
                pairing, slot = flow.pairings.find(label), flow.channels.find(label)
                places.setdefault(pairing, []).append((slot, channel))
        if not places:
            continue
        for pairing in sorted(places):
            rows.setdefault(pairing, len(rows))
        if len(places) < len(rows) or len({len(slots) for slots in places.values()}) > 1:
            return f"layer '{call.layer}' does not use every channel of the group equally often"
        index = torch.tensor([[channel for _, channel in sorted(places[pairing])] for pairing in rows])
        known = found.setdefault((call.layer, call.side), Member(call.layer, call.side, index))
        if not torch.equal(known.index, index):
            return f"layer '{call.layer}' is called with different channels"
    if any(len(member.index) < len(rows) for member in found.values()):
        return "its layers do not share all of their channels"
    return tuple(found.values())


def owners_of(flow: Flow, root: int) -> Iterator[int]:
    """The layers whose channels are tied to those of `root`."""
    return (owner for owner in range(len(flow.layers.parents)) if flow.layers.find(owner) == root)


def obstacle(flow: Flow, root: int, found: tuple[Member, ...] | str) -> str | None:
    """Why a group cannot be pruned; empty for the network's outputs, None where nothing speaks against it."""
    for owner in owners_of(flow, root):
        if owner in flow.fixed:
            return flow.fixed[owner]
    if isinstance(found, str):
        return found
    return next((f"layer '{m.layer}' {flow.misused[m.layer]}" for m in found if m.layer in flow.misused), None)
