"""What a training brings down: the cross entropy of labels, or the distance from what other networks answer."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.config import FineTuningConfig
from workloads.structure.layers import NORMS, WEIGHTED, is_empty


class Objective(Protocol):
    """The loss of a batch."""

    def learning(self, model: nn.Module) -> AbstractContextManager[None]:
        """A block in which a network is in the state in which it learns."""
        ...

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, classes) logits of images (B, C, H, W), and the mean loss of them, a scalar.

        Args:
            labels: (B,) classes, or (B, classes) shares of them.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Of the labels (B,), or of their shares (B, classes) where images are mixed.

    Attributes:
        smoothing: share of each label that is spread over all classes.
    """

    smoothing: float = 0.0

    @contextmanager
    def learning(self, model: nn.Module) -> Iterator[None]:
        """It normalises by batches, and drops what its dropout drops."""
        model.train()
        yield

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The logits and their mean cross entropy."""
        logits = model(images)
        return logits, F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class Distillation:
    """What teachers answer on the same images (Hinton et al. 2015), with labels and features mixed in by weights.

    The loss is (1 − labels)·T²·KL(teachers ‖ network) + labels·cross entropy + features·similarity. KL is that of the
    softmax at temperature T, of several teachers their mean. The similarity (Tung and Mori 2019) compares which images
    of a batch have alike features: ‖G − G′‖² / B², G being the products of the last layer's inputs, (B, B) with rows
    of unit norm. It needs no equal widths. Without labels in the mix, none are looked at to learn.

    Attributes:
        teachers: networks in evaluation mode.
        config: temperature and weights.
    """

    teachers: Sequence[nn.Module]
    config: FineTuningConfig

    @contextmanager
    def learning(self, model: nn.Module) -> Iterator[None]:
        """As for labels, but batch-norm that was merged stays the identity: few images have other statistics."""
        model.train()
        merged = [norm for norm in model.modules() if isinstance(norm, NORMS) and is_empty(norm)]
        frozen = [p for norm in merged for p in norm.parameters(recurse=False) if p.requires_grad]
        for norm in merged:
            norm.eval()
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The logits and the mean loss."""
        config = self.config
        with torch.no_grad():
            answers = [self.answer(teacher, images) for teacher in self.teachers]
        logits, features = self.answer(model, images)
        temperature = config.temperature
        wanted = torch.stack([(wide.float() / temperature).softmax(1) for wide, _ in answers]).mean(0)
        reached = (logits.float() / temperature).log_softmax(1)
        loss = (1 - config.labels) * temperature**2 * F.kl_div(reached, wanted, reduction="batchmean")
        if config.labels:
            of_labels = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
            loss = loss + config.labels * of_labels
        if config.features:
            alike = torch.stack([similarities(each) for _, each in answers]).mean(0)
            loss = loss + config.features * (similarities(features) - alike).square().mean()
        return logits, loss

    def answer(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and what the last layer with weights reads."""
        if not self.config.features:
            logits: Tensor = model(images)
            return logits, logits
        with last_input(model) as seen:
            logits = model(images)
        return logits, seen[-1]


@contextmanager
def last_input(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list whose only entry is what the layer with weights that ran last has read."""
    seen: list[Tensor] = []

    def look(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [args[0] if args else kwargs["input"]]

    with ExitStack() as hooks:
        for layer in model.modules():
            if isinstance(layer, WEIGHTED):
                hooks.callback(layer.register_forward_pre_hook(look, with_kwargs=True).remove)
        yield seen


def similarities(features: Tensor) -> Tensor:
    """(B, B) products of the images' features, with rows of unit norm."""
    flat = features.float().flatten(1)
    return F.normalize(flat @ flat.T, dim=1)
