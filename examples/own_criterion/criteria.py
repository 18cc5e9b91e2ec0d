"""A criterion of your own. `experiment.yaml` names it as `criteria:share_of_zeros`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workloads.structure.groups import Group


def share_of_zeros(model: nn.Module, group: Group, *, images: Sequence[Tensor], count: int = 256) -> Tensor:
    """How often a neuron is active: one minus the average percentage of zeros (APoZ, Hu et al. 2016).

    Args:
        model: the network, batch-norm merged.
        group: one of its groups; a higher score of a neuron means that it is kept.
        images: unlabelled training batches; metaprune gives them because the argument has this name.
        count: how many of them to look at; an option, set as `{name: "criteria:share_of_zeros", count: 64}`.
    """
    seen = torch.cat(list(images))[:count]
    active = torch.zeros(group.size)

    def counting(index: Tensor) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Before the ReLU: what is not positive will be zero. Channels first, or last behind a linear layer.
            channels_last = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
            positive = (channels_last.reshape(-1, channels_last.shape[-1]) > 0).float().mean(0)
            active.add_(positive[index].mean(1).cpu())

        return hook

    # A group may have several producing layers, such as those that add to one residual stream.
    handles = [
        model.get_submodule(member.layer).register_forward_hook(counting(member.index))  # type: ignore[arg-type]
        for member in group.members
        if member.side in ("producer", "through")
    ]
    try:
        with torch.no_grad():
            model(seen)
    finally:
        for handle in handles:
            handle.remove()
    return active / len(handles)
