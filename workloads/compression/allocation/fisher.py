"""How much a network's answer depends on what its layers make."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from workloads.compression.calls import Call, by_channel, run_tapped
from workloads.compression.criteria import taking_gradients
from workloads.compression.criteria.gradient import gradients_of

BATCH = 64


def output_information(
    model: nn.Module, layers: Collection[str], images: Sequence[Tensor], seed: int
) -> Mapping[str, Tensor]:
    """By layer, (channels,) float64: the Fisher information of an output channel, summed over positions and calls.

    An error e in a channel moves the network's answer by about ½·F·E[e²] nats of Kullback-Leibler divergence, where
    errors at different positions have nothing to do with each other. F is the mean square of ∂ log p(label) / ∂ output
    over labels that are drawn from the network's own answers: no label of an image is needed.

    Args:
        model: the network, in evaluation mode.
        layers: with weights.
        images: batches (B, C, H, W).
        seed: of the labels that are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    totals: dict[str, Tensor] = {}
    count = 0
    with taking_gradients(model), torch.enable_grad():
        for batch in (part for images_of_batch in images for part in images_of_batch.split(BATCH)):
            outputs: list[tuple[str, nn.Module, Tensor]] = []

            def keep(
                call: Call, layer: nn.Module, output: Tensor, outputs: list[tuple[str, nn.Module, Tensor]] = outputs
            ) -> Tensor:
                outputs.append((call.layer, layer, output))
                return output.clone()  # what comes next may work in place

            answers = run_tapped(model, batch, outputs=dict.fromkeys(layers, keep)).float().log_softmax(1)
            labels = torch.multinomial(answers.detach().exp().cpu(), 1, generator=generator).to(answers.device)
            likelihood = answers.gather(1, labels).sum()
            gradients = gradients_of(likelihood, [output for _, _, output in outputs])
            for name, layer, output in outputs:
                gradient = gradients.get(output, torch.zeros_like(output))  # such as of what is detached
                found = by_channel(layer, gradient).double().square().sum(0).cpu()
                totals[name] = totals[name] + found if name in totals else found
            count += len(batch)
    return {name: total / count for name, total in totals.items()}
