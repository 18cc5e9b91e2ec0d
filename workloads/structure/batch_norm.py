"""Batch-norms: merged into the layers before them, and what they knew of these layers' outputs."""

import torch
from torch import Tensor, nn

from workloads.structure.groups import Structure
from workloads.structure.layers import along_outputs, empty_batch_norm, get_layer, is_empty, resize

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and deviation of each output channel of a layer over the training data, by the layer's name."""


@torch.no_grad()
def merge_batch_norm(model: nn.Module, structure: Structure) -> Statistics:
    """Move every batch-norm into the layer before it, exactly; the emptied batch-norm is the identity.

    Layers without a bias gain one. The network's function in evaluation mode is unchanged.

    Returns:
        What the batch-norms knew of the layers' new outputs: β as the mean, |γ| as the deviation. Batch-norms that were
        empty before know nothing.
    """
    statistics: Statistics = {}
    for layer_name, norm_name in structure.normalised:
        layer, norm = get_layer(model, layer_name), get_layer(model, norm_name)
        if not is_empty(norm):
            statistics[layer_name] = norm.bias.detach().clone(), norm.weight.detach().abs()
        scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
        bias = torch.zeros_like(norm.running_mean) if layer.bias is None else layer.bias
        bias = (bias - norm.running_mean) * scale + norm.bias
        resize(layer, "weight", layer.weight * along_outputs(layer, scale))
        resize(layer, "bias", bias)
        empty_batch_norm(norm)
    return statistics
