"""The logits among what a network returns, which may be more than a tensor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("logits", "out", "output")
COMPILED = "_orig_mod"
"""The name by which `torch.compile` keeps the module that it wraps."""


def logits_of(output: Any) -> Tensor:
    """The tensor itself; `logits` of Hugging Face's outputs and of mappings; the first part of a tuple or list.

    Raises:
        ValueError: there is no tensor of two dimensions at these places.
    """
    found = output
    if isinstance(output, Mapping):
        found = next((output[name] for name in NAMES if name in output), None)
    elif isinstance(getattr(output, "logits", None), Tensor):
        found = output.logits
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if isinstance(output, Tensor) or (isinstance(found, Tensor) and found.ndim == 2):
        assert isinstance(found, Tensor)
        return found
    raise ValueError(f"the network returns {type(output).__name__}, not a tensor of logits")


def returning_logits(model: nn.Module) -> nn.Module:
    """The network, which from now on returns its logits alone."""
    if not isinstance(model, torch.jit.ScriptModule) and _logits_alone not in model._forward_hooks.values():
        model.register_forward_hook(_logits_alone)
    return model


def _logits_alone(module: nn.Module, inputs: Any, output: Any) -> Any:
    try:
        return logits_of(output)
    except ValueError:
        return output  # what is wrong with it is said where the network is traced


def parts_uncompiled(model: nn.Module) -> nn.Module:
    """The network with the modules inside `torch.compile` in the place of its compiled parts, in place.

    Compiled parts run no hooks, from which criteria and repair learn what layers read and make.
    """
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if isinstance(inner := getattr(part, COMPILED, None), nn.Module):
                setattr(module, name, inner)
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, `DataParallel` or `DistributedDataParallel`."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, COMPILED, None), nn.Module):
            model = inner
        else:
            return model
