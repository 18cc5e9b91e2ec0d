"""How long finding the groups of a network takes beside Torch-Pruning's dependency graph, and what both can remove.

    python -m pip install timm torch-pruning
    python benchmarks/tracing.py [NETWORK ...] [--pixels 96] [--runs 3] [--threads 1] [--out tracing.parquet]

Networks of timm with random weights and a classifier of ten classes. `following` records one forward pass and finds the
groups; `trace` also tries them out on numbers, in double precision, which Torch-Pruning does not do. The shares are of
the weights that are gone once every group has lost half of its pairings, classifier kept: of the kinds that are pruned
by default, of all, and by Torch-Pruning. Processor time.
"""

import time
from collections.abc import Callable

import torch
from measuring import Table, announce, machine, parser, side_by_side, write
from torch import nn

from workloads.compression.budgets import parameters_after
from workloads.compression.group_sizes import size_after
from workloads.config import DEFAULT_KINDS, KINDS
from workloads.measuring.evaluation import parameter_count
from workloads.structure.finding import judged, trace
from workloads.structure.findings import Findings
from workloads.structure.groups import Structure
from workloads.structure.recording import Recording
from workloads.structure.rules import follow
from workloads.structure.trial import running_eagerly

CLASSES = 10
SPARSITY = 0.5
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


def built(name: str) -> nn.Module:
    """A network of timm, in evaluation mode."""
    import timm

    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=CLASSES)
    return model.eval()


def followed(model: nn.Module, example: torch.Tensor) -> None:
    """Find groups without trying them out."""
    with running_eagerly():
        recording = Recording(model, follow)
        recording.run(example)
        judged(model, Findings(recording))


def share_removed(model: nn.Module, structure: Structure, kinds: tuple[str, ...]) -> float:
    """The share of weights that goes with half of the pairings of groups of some kinds."""
    chosen = [group for group in structure.groups if group.kind in kinds]
    sizes = {group.number: size_after(group.size, SPARSITY) for group in chosen}
    return 1 - parameters_after(model, structure, sizes) / parameter_count(model)


def share_removed_by_torch_pruning(model: nn.Module, example: torch.Tensor) -> float:
    """The same for Torch-Pruning's pruner, which narrows the model."""
    import torch_pruning

    before = parameter_count(model)
    classifiers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == CLASSES]
    importance = torch_pruning.importance.MagnitudeImportance()
    pruner = torch_pruning.pruner.MagnitudePruner(
        model, example, importance=importance, pruning_ratio=SPARSITY, ignored_layers=classifiers
    )
    pruner.step()
    return 1 - parameter_count(model) / before


def main() -> None:
    import torch_pruning

    options = parser(__doc__, "tracing.parquet")
    options.add_argument("networks", nargs="*", default=NETWORKS)
    options.add_argument("--pixels", type=int, default=96, help="height and width of the image")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {"runs": arguments.runs, "threads": arguments.threads, "pixels": arguments.pixels}
    conditions = machine("torch", "timm", "torch-pruning") | settings
    announce(conditions)
    shares, times = Table("Share of weights removed at half of the pairings"), Table("Seconds of processor time")
    for name in arguments.networks:
        model, example = built(name), torch.zeros(1, 3, arguments.pixels, arguments.pixels)
        structure = trace(model, example)
        by_default, of_all = (share_removed(model, structure, kinds) for kinds in (DEFAULT_KINDS, KINDS))
        theirs = share_removed_by_torch_pruning(built(name), example)
        counts = {"network": name, "groups": len(structure.groups), "kept": len(structure.kept)}
        shares.add(**counts, **{"default kinds": by_default, "all kinds": of_all, "Torch-Pruning": theirs})
    for name in arguments.networks:
        model, example = built(name), torch.zeros(1, 3, arguments.pixels, arguments.pixels)
        ways: dict[str, Callable[[], object]] = {
            "following": lambda model=model, example=example: followed(model, example),  # type: ignore[misc]
            "trace": lambda model=model, example=example: trace(model, example),  # type: ignore[misc]
            "Torch-Pruning": lambda model=model, example=example: torch_pruning.DependencyGraph().build_dependency(  # type: ignore[misc]
                model, example_inputs=example
            ),
        }
        taken = side_by_side(ways, arguments.runs, time.process_time)
        ratios = {f"ratio of {way}": taken["Torch-Pruning"] / taken[way] for way in ("following", "trace")}
        times.add(network=name, **taken, **ratios)
    write(arguments.out, conditions, shares, times)


if __name__ == "__main__":
    main()
