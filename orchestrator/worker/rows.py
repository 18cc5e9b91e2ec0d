"""The rows about networks: how accurate, how large, how fast, and how far apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.storage.store import Store
from orchestrator.worker.latencies import latencies
from workloads.config import DEFAULT_KINDS, BarrierConfig, LandscapeConfig
from workloads.data.samples import Dataset
from workloads.data.splits import Part
from workloads.fusion import Line, above_line
from workloads.measuring.evaluation import Measurement, evaluate, mac_count, parameter_count
from workloads.measuring.landscape import Plane
from workloads.networks.checkpoints import Description
from workloads.scope import labelled_groups
from workloads.structure.finding import trace
from workloads.structure.groups import Group
from workloads.training.snapshots import Epoch

CORNERS = ("original", "against", "method")


def evaluation_row(
    store: Store,
    model: nn.Module,
    description: Description,
    dataset: Dataset,
    test: Measurement,
    epoch: int,
    precision: str,
    labels: Mapping[str, Any],
) -> dict[str, Any]:
    """The columns of `evaluations` that a measured network fills; `store` is the run's."""
    parameters = parameter_count(model)
    planned = labels["neuron_sparsity"]
    return {
        "epoch": epoch,
        "neuron_sparsity": neuron_sparsity(model, description, dataset.shape, labels) if planned is None else planned,
        "weight_sparsity": 1 - parameters / description.parameters,
        "parameters": parameters,
        "macs": mac_count(model, dataset.shape),
        "accuracy": test.accuracy,
        "accuracy_top5": test.accuracy_top5,
        "balanced_accuracy": test.balanced_accuracy,
        "loss": test.loss,
        "precision": precision,
        "seconds": test.seconds,
        **latencies(store, model, description, dataset.shape),
    }


def neuron_sparsity(
    model: nn.Module, description: Description, shape: tuple[int, ...], labels: Mapping[str, Any]
) -> float:
    """The share of pairings that were removed from the pruned groups; `labels` are the coordinates that name them."""
    example = torch.zeros(1, *shape, device=next(model.parameters()).device)
    kinds = labels["kinds"].split(", ") if labels.get("kinds") else DEFAULT_KINDS
    groups = trace(model, example).groups
    found: list[Group]
    if labels["group"] is not None:
        found = [groups[labels["group"]]]
    elif labels.get("groups") is not None:
        found = [groups[number] for number in labelled_groups(labels["groups"])]
    else:
        found = [each for each in groups if each.kind in kinds]
    left = sum(each.size for each in found)
    before = sum((description.widths[each.number : each.number + 1] or (each.size,))[0] for each in found)
    return 1 - left / before


def epoch_row(epoch: Epoch, precision: str) -> dict[str, Any]:
    """The columns of `epochs` that an epoch fills."""
    row = {
        "epoch": epoch.epoch,
        "learning_rate": epoch.learning_rate,
        "precision": precision,
        "train_loss": epoch.train_loss,
        "train_accuracy": epoch.train_accuracy,
        "seconds": epoch.seconds,
    }
    if epoch.test:
        row |= {"test_loss": epoch.test.loss, "test_accuracy": epoch.test.accuracy}
    return row


def split_rows(parts: Sequence[Part], labels: Tensor, classes: int) -> list[dict[str, Any]]:
    """The rows of `splits` about the stretches that one model saw; `labels` are those of the whole training set."""
    return [
        {
            "part": number,
            "start": part.start,
            "end": part.end,
            "samples": labels[part.samples].bincount(minlength=classes).tolist(),
        }
        for number, part in enumerate(parts)
    ]


def distance_row(original: Tensor, other: Tensor) -> dict[str, Any]:
    """The columns of `output_distances`, from two networks' logits (N, classes)."""
    distances = (original - other).norm(dim=1)
    return {"mean": distances.mean().item(), "distances": distances.tolist()}


def landscape_rows(
    plane: Plane, config: LandscapeConfig, row: int, dataset: Dataset, precision: str
) -> list[dict[str, Any]]:
    """The rows of `landscapes` for one row of points; the first one has the three networks themselves too."""
    x, y = plane.grid(config.size, config.margin)
    points = [(None, float(value), float(y[row])) for value in x]
    if row == 0:
        points += [(name, *place) for name, place in zip(CORNERS, plane.corners.tolist(), strict=True)]
    measured = dataset.with_test_samples(config.samples)
    rows = []
    for corner, *place in points:
        test = evaluate(plane.network(*place), measured, precision=precision)
        rows.append({"corner": corner, "x": place[0], "y": place[1], "accuracy": test.accuracy, "loss": test.loss})
    return rows


def barrier_rows(line: Line, config: BarrierConfig, dataset: Dataset, precision: str) -> list[dict[str, Any]]:
    """The rows of `barriers` for the points of a line."""
    measured = dataset.with_test_samples(config.samples)
    shares = [number / (config.points - 1) for number in range(config.points)]
    tests = [evaluate(line.network(share), measured, precision=precision) for share in shares]
    excess = above_line(shares, [test.loss for test in tests])
    return [
        {"share": share, "accuracy": test.accuracy, "loss": test.loss, "excess": above}
        for share, test, above in zip(shares, tests, excess, strict=True)
    ]
