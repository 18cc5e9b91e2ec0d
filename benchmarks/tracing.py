"""How long finding the groups of a network takes beside Torch-Pruning's dependency graph, and what both can remove.

    python -m pip install timm torch-pruning
    python -m benchmarks.tracing [NETWORK ...] [--pixels 96]

For each network of timm, with random weights and a classifier of ten classes: processor time of `trace` with its trials
and of building Torch-Pruning's graph, on one thread, each the least of several runs; and the share of the weights that
is gone once every group has lost half of its pairings, those of all kinds included, classifier kept.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import nn

from workloads.compression.group_sizes import parameters_after, size_after
from workloads.config import DEFAULT_KINDS, KINDS
from workloads.measuring.evaluation import parameter_count
from workloads.structure.finding import trace
from workloads.structure.groups import Structure

NETWORKS = (
    "resnet50",
    "efficientnet_b0",
    "mobilenetv4_conv_small",
    "mobilenetv3_small_100",
    "regnety_002",
    "convnext_atto",
    "densenet121",
    "mobilenetv2_100",
    "resnext26ts",
    "repvgg_a0",
    "convnextv2_atto",
)
SPARSITY = 0.5
RUNS = 2


def least_seconds(run: Callable[[], object]) -> float:
    """Processor time of the fastest of some runs."""
    seconds = []
    for _ in range(RUNS):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)


def share_removed(model: nn.Module, structure: Structure, kinds: tuple[str, ...]) -> float:
    """The share of weights that goes with half of the pairings of groups of some kinds."""
    chosen = [group for group in structure.groups if group.kind in kinds]
    sizes = {group.number: size_after(group.size, SPARSITY) for group in chosen}
    return 1 - parameters_after(model, structure, sizes) / parameter_count(model)


def by_torch_pruning(build: Callable[[], nn.Module], example: torch.Tensor) -> tuple[float, float]:
    """Seconds of Torch-Pruning's graph, and the share of weights that its pruner removes."""
    import torch_pruning

    model = build()
    seconds = least_seconds(lambda: torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example))
    model = build()
    before = parameter_count(model)
    classifiers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == 10]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=SPARSITY,
        ignored_layers=classifiers,
    )
    pruner.step()
    return seconds, 1 - parameter_count(model) / before


def main() -> None:
    """Print a row a network."""
    import timm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--pixels", type=int, default=96)
    options = parser.parse_args()
    torch.set_num_threads(1)
    processor = platform.processor() or platform.machine()
    print(f"{processor}, one thread; torch {torch.__version__}, timm {timm.__version__}")
    print("| network | groups | kept | removed | with all kinds | Torch-Pruning | seconds | its seconds | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.networks:
        example = torch.zeros(1, 3, options.pixels, options.pixels)

        def build(name: str = name) -> nn.Module:
            torch.manual_seed(0)
            model: nn.Module = timm.create_model(name, num_classes=10).eval()
            return model

        model = build()
        structure = trace(model, example)
        seconds = least_seconds(lambda: trace(model, example))  # noqa: B023 - runs at once
        removed, of_all = (share_removed(model, structure, kinds) for kinds in (DEFAULT_KINDS, KINDS))
        try:
            theirs, their_share = by_torch_pruning(build, example)
            comparison = f"{their_share:.1%} | {seconds:.1f} | {theirs:.2f} | {seconds / theirs:.1f}"
        except Exception as error:  # whatever it raises on a network, which is then the result
            comparison = f"{type(error).__name__} | {seconds:.1f} | – | –"
        counts = f"{len(structure.groups)} | {len(structure.kept)}"
        print(f"| {name} | {counts} | {removed:.1%} | {of_all:.1%} | {comparison} |", flush=True)


if __name__ == "__main__":
    main()
