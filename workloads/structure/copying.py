"""Copies of networks, also of those that PyTorch's own deep copy refuses."""

import copy

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, with the tensors that modules keep of their last call cut off from how they were computed.

    Modules keep such tensors where they store an activation, such as for distillation, and where they compute their
    weight before each call, as `torch.nn.utils.weight_norm` and the masks of `torch.nn.utils.prune` do.

    Raises:
        ValueError: a lazy layer does not have its weights yet; names it.
    """
    for name, module in model.named_modules():
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise ValueError(
                f"layer '{name}' ({type(module).__name__}) has no weights yet: run the network once on an image before"
            )
    kept = (leaf for module in model.modules() for leaf in tree_leaves(vars(module)))
    detached = {id(leaf): leaf.detach().clone() for leaf in kept if isinstance(leaf, Tensor) and not leaf.is_leaf}
    copy_of_it = copy.deepcopy(model, detached)
    for parameter in copy_of_it.parameters():
        if not parameter.is_leaf:  # of a part that is compiled by TorchScript
            parameter.detach_().requires_grad_()
    return copy_of_it
