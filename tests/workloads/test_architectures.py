"""One network of each family that images go into: pruned all the way, or kept with a reason."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig
from workloads.measuring.evaluation import parameter_count
from workloads.networks.checkpoints import Description
from workloads.networks.exporting import export
from workloads.structure.copying import copied

architectures = importlib.import_module("benchmarks.architectures")
METHODS = ("conventional", "neuron-merging", "reconstruction", "folding")
TOO_FEW_LABELS = torch.arange(3)
BY_GROUPS = "grouped convolutions are narrowed by whole groups, of which half the weights remain, not a quarter"
OTHERWISE = {
    "resnext26ts": BY_GROUPS,
    "regnety_002": BY_GROUPS,
    "RegNet": BY_GROUPS,
    "resnest14d": BY_GROUPS,
    "shufflenet_v2_x0_5": "the halves that a stage passes on are of unequal use",
}
"""Networks of which Torch-Pruning removes another share, with the reason."""


def lacking(architecture) -> str | None:  # type: ignore[no-untyped-def]
    """The library that a network needs and that is not installed."""
    return None if importlib.util.find_spec(architecture.library) else architecture.library


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", architectures.ARCHITECTURES, ids=lambda each: f"{each.library}-{each.name}")
def test_an_architecture_is_pruned_by_every_method_runs_learns_and_is_exported(architecture, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    if lacking(architecture):
        pytest.skip(f"{architecture.library} is not installed")
    model = architecture.build()
    network = architectures.prepared(architecture)
    images = torch.randn(3, 3, architecture.pixels, architecture.pixels)
    sources = Sources(images[:1], images=[images])
    before = parameter_count(model)
    kinds = tuple(dict.fromkeys(group.kind for group in network.structure.groups))
    for method in METHODS:
        taken = tuple(kind for kind in kinds if method != "folding" or kind not in ("heads", "query-key"))
        narrow = compress(network, CompressionConfig(sparsity=0.5, kinds=taken, method=method), sources).model
        for batch in (images, images[:1]):
            assert narrow(batch).shape == (len(batch), architectures.CLASSES)
            assert bool(narrow(batch).isfinite().all())
        assert parameter_count(narrow) < before
        if method == METHODS[0]:
            learning = copied(narrow).train()
            F.cross_entropy(learning(images), TOO_FEW_LABELS).backward()
            assert any(parameter.grad is not None and parameter.grad.any() for parameter in learning.parameters())
            description = Description({"name": architecture.name}, 3, architectures.CLASSES, before)
            shape = (3, architecture.pixels, architecture.pixels)
            assert export(narrow, description, shape, "torch-export", tmp_path / "narrow.pt2") < 1e-2
    if architecture.name not in OTHERWISE and importlib.util.find_spec("torch_pruning"):
        try:
            theirs = architectures.share_of_torch_pruning(architecture)
        except Exception:
            return  # it cannot prune this network
        groups = architectures.each_neuron_once(network.structure)
        assert architectures.share_removed(network, groups, before) > theirs - 0.02
