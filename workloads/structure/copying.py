"""Copies of networks, also of those that PyTorch's own deep copy refuses; and changes that are taken back."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from workloads.structure.layers import RECORDED


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


@contextlib.contextmanager
def changing(model: nn.Module) -> Iterator[nn.Module]:
    """A block in which modules may get other parameters, attributes and classes, after which they are as before.

    Tensors themselves must not be changed in place. Of a network with parts compiled by TorchScript a copy is changed.
    Modules forget what follows from their weights, which some keep until they are trained.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        yield copy.deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())}).train().eval()
        return
    kept = [(module, type(module), attributes_of(module)) for module in model.modules()]
    try:
        yield model.train().eval()
    finally:
        for module, kind, attributes in kept:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        model.train().eval()


def attributes_of(module: nn.Module) -> dict[str, object]:
    """A module's attributes, with copies of the tables that changes of sizes write to."""
    tables = ("_parameters", "_buffers", "_non_persistent_buffers_set", RECORDED)
    return {name: copy.copy(value) if name in tables else value for name, value in vars(module).items()}
