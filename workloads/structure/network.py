"""A network that is ready to be compressed: batch-norm merged, groups found."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from workloads.structure.attention import opened
from workloads.structure.batch_norm import Statistics, merge_batch_norm
from workloads.structure.copying import copied
from workloads.structure.finding import trace
from workloads.structure.groups import Structure
from workloads.structure.layers import SILENT, get_layer
from workloads.structure.logits import parts_uncompiled, returning_logits, unwrapped
from workloads.structure.standardised import keep_weights


class Network(NamedTuple):
    """A network that is ready to be compressed.

    Attributes:
        model: in evaluation mode, batch-norm merged.
        structure: its groups.
        statistics: of its layers' outputs, as far as batch-norms knew them.
        places: by number of a narrowed group, the (m,) pairings whose places its pairings have taken.
        parameters: how many the network had before batch-norm was merged, which can add biases; None if not known.
    """

    model: nn.Module
    structure: Structure
    statistics: Statistics
    places: Mapping[int, Tensor] = MappingProxyType({})
    parameters: int | None = None

    @classmethod
    def prepared(cls, model: nn.Module, example: Tensor) -> "Network":
        """A copy of the network with batch-norm merged, and its groups.

        PyTorch's and torchvision's attentions get a layer each for queries, keys and values, so that heads can be
        removed; convolutions that standardise their weights keep the standardised ones.

        Args:
            model: any network that `trace` takes, compiled or not; of what it returns, the copy returns the logits.
            example: (1, C, H, W), on the device of the network.

        Raises:
            ValueError: see `trace`.
        """
        model = returning_logits(keep_weights(opened(parts_uncompiled(copied(unwrapped(model))).eval())))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        structure = trace(model, example)
        for name in structure.silent:
            vars(get_layer(model, name))[SILENT] = True
        return cls(model, structure, merge_batch_norm(model, structure), parameters=parameters)
