"""Refining what was solved: a producer and its consumer are fitted together, for what the consumer is to make.

Least squares give the producer the best weights for its own output, and the consumer those for its own. What the
producer's output is good for, only the consumer tells: gradient steps through the chain producer → activation →
consumer, against the same targets. There are no labels, and no pass through the whole network.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from workloads.compression.compensation.plan import LayerPlan
from workloads.compression.compensation.summands import Chain
from workloads.compression.compensation.sums import ALL, made_rows, wide
from workloads.structure.layers import resize

RATE = 0.02  # of Adam, as a share of the deviation of a layer's weights
BETAS = (0.9, 0.99)


class Refinement:
    """The chains of a network, with what is needed to fit them: inputs of producers, targets of consumers.

    Args:
        plans: of the layers, by name.
        chains: by consumer.
        epochs: passes over the batches.
        seed: of their order.
    """

    def __init__(self, plans: Mapping[str, LayerPlan], chains: Mapping[str, Chain], epochs: int, seed: int):
        self.plans, self.epochs = plans, epochs
        self.chains = chains if epochs else {}
        self.producers = {chain.producer for chain in self.chains.values()}
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs: dict[str, dict[int, Tensor]] = {}

    def keep(self, layer: str, batch: int, given: Tensor) -> None:
        """Keep what a producer reads until its consumer is solved."""
        if layer in self.producers:
            self.inputs.setdefault(layer, {})[batch] = given.clone()

    def fit(self, layer: str, targets: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Fit a consumer and its producer, in place.

        Args:
            layer: name of the consumer.
            targets: by batch, (rows, channels) of what it is to make.

        Returns:
            What the consumer reads now, by batch.
        """
        chain = self.chains[layer]
        inputs = self.inputs.pop(chain.producer, {})
        sizes = {number: len(given) for number, given in inputs.items()}
        if not sizes:
            return {}
        whole = [number for number, size in sizes.items() if size == sizes[0] and number in targets]
        layers = [self.plans[name].layer for name in (chain.producer, layer)]
        fitted = [
            {name: wide(p.detach()).clone().requires_grad_() for name, p in each.named_parameters()} for each in layers
        ]
        rates = [RATE * float(weights["weight"].detach().std()) for weights in fitted]
        groups = [{"params": list(weights.values()), "lr": rate} for weights, rate in zip(fitted, rates, strict=True)]
        scale = torch.stack([targets[number].var() for number in whole]).mean().clamp(min=1e-12)
        adam = torch.optim.Adam(groups, betas=BETAS)
        steps = self.epochs * len(whole)
        with torch.enable_grad():
            for step, number in enumerate(self.order(whole)):
                for group, rate in zip(adam.param_groups, rates, strict=True):
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
                given = wide(inputs[number])
                read = chain.run(functional_call(layers[0], fitted[0], (given,)))
                made = made_rows(layers[1], functional_call(layers[1], fitted[1], (read,)), ALL, None)
                loss = (made - targets[number].to(made)).square().mean() / scale
                adam.zero_grad()
                loss.backward()
                adam.step()
        for each, weights in zip(layers, fitted, strict=True):
            for name, value in weights.items():
                resize(each, name, value.detach().to(getattr(each, name)))
        return {number: chain.run(self.called(layers[0], inputs[number])) for number in whole}

    def order(self, batches: list[int]) -> Iterator[int]:
        """The batches of all epochs, each time in another order."""
        for _ in range(self.epochs):
            for place in torch.randperm(len(batches), generator=self.generator).tolist():
                yield batches[place]

    @staticmethod
    def called(layer: Any, given: Tensor) -> Tensor:
        """What a layer makes, without its hooks."""
        made: Tensor = type(layer).forward(layer, given)
        return made
