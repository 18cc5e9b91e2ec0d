"""Finding the groups of a network: the channels that belong together, and those that must stay as they are."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from workloads.flow import Flow
from workloads.groups import CONSUMER, Group, Maps, Member, Structure, apply, get_layer


def trace(model: nn.Module, example: Tensor) -> Structure:
    """Find the groups of a network by running it once on `example` (1, C, H, W).

    Groups come in the paper's order: from the last layer backwards, the classifier left out. Groups that cannot be
    pruned are kept as they are and named in `Structure.kept`.

    Raises:
        ValueError: the network does not return a tensor, or none of its groups can be pruned.
    """
    flow = Flow(model.eval())
    flow.run(example)
    groups: list[Group] = []
    kept: list[tuple[str, str]] = []
    covered: set[int] = set()
    for name, _ in reversed(list(model.named_modules())):
        if name not in flow.made_by or (root := flow.layers.find(flow.owners[int(flow.made_by[name][0])])) in covered:
            continue
        covered.add(root)
        found = members(flow, root)
        reason = obstacle(flow, root, found)
        if not reason and isinstance(found, tuple) and any(member.side == CONSUMER for member in found):
            group = Group(len(groups), len(found[0].index), found)
            reason = misfit(model, group, example) if suspicious(flow, root) else None
            if reason is None:
                groups.append(group)
        if reason:
            kept.append((name, reason))
    if not groups:
        reasons = "; ".join(f"'{name}': {reason}" for name, reason in kept[:3])
        raise ValueError(f"none of its layers can be pruned{f' ({reasons})' if reasons else ''}")
    normalised = tuple(
        (output.layer, output.norm)
        for output in flow.made
        if output.norm and output.readers == 1 and flow.called[output.layer] == flow.called[output.norm] == 1
    )
    return Structure(tuple(groups), normalised, tuple(kept))


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


def suspicious(flow: Flow, root: int) -> bool:
    """Whether channels of a group went through an operation that may have sizes of its own."""
    return any(owner in flow.suspect for owner in owners_of(flow, root))


@torch.no_grad()
def misfit(model: nn.Module, group: Group, example: Tensor) -> str | None:
    """Why removing pairings is not the same as ignoring them, tried on an odd number of them; None where it is."""
    generator = torch.Generator().manual_seed(0)
    m = max(1, group.size // 2 - 1 + group.size // 2 % 2)
    selection = torch.eye(group.size)[torch.randperm(group.size, generator=generator)[:m].sort().values]
    ignoring, removing = (copy.deepcopy(model).double() for _ in range(2))
    for member in group.on(CONSUMER):
        gone = member.index[selection.sum(0) == 0].flatten()
        get_layer(ignoring, member.layer).weight[:, gone] = 0
    apply(removing, group, Maps(selection, selection))
    images = torch.randn(example.shape, generator=generator).to(example.device).double()
    expected = ignoring(images)
    try:
        logits = removing(images)
    except Exception as error:
        return f"the network does not run without some of its channels ({str(error).partition(chr(10))[0]})"
    if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=1e-6, atol=1e-8):
        return "the network gives other outputs without its channels than when they are not read"
    return None
