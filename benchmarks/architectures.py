"""What can be pruned of networks of timm, torchvision and transformers, one of each family, beside Torch-Pruning.

    python -m pip install timm transformers torch-pruning
    python benchmarks/architectures.py [NAME ...] [--out architectures.parquet] [--markdown table.md]

Small members of each family, or small settings, with random weights and a classifier of ten classes. `half` is the
share of weights that is gone once every group has lost half of its pairings: of channels, hidden units and streams, and
of the dimensions inside heads, or of the heads where these alone can be pruned. Torch-Pruning prunes the same share of
everything but the classifier. `all` prunes heads and dimensions. What stays as it is is named with its reason.
"""

import contextlib
import importlib
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from workloads.compression.budgets import parameters_after, smallest
from workloads.compression.group_sizes import size_after
from workloads.measuring.evaluation import parameter_count
from workloads.structure.groups import Group, Structure
from workloads.structure.network import Network

CLASSES = 10
SPARSITY = 0.5
PATIENCE = 30.0
"""Seconds of processor time after which Torch-Pruning is stopped."""
COLUMNS = (
    "library",
    "network",
    "weights",
    "groups",
    "kept",
    "half",
    "all",
    "Torch-Pruning",
    "it fails with",
    "why kept",
)


class Architecture(NamedTuple):
    """One network: the library, the name in it, further arguments, and the height and width of its images."""

    library: str
    name: str
    options: dict[str, Any]
    pixels: int = 64

    def build(self) -> nn.Module:
        """The network with random weights, in evaluation mode, every parameter of which matters."""
        torch.manual_seed(0)
        model = BUILDERS[self.library](self.name, self.options).eval()
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        return model


def of_timm(name: str, options: dict[str, Any]) -> nn.Module:
    """A network of timm."""
    model: nn.Module = importlib.import_module("timm").create_model(name, num_classes=CLASSES, **options)
    return model


def of_torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    """A network of torchvision."""
    model: nn.Module = getattr(importlib.import_module("torchvision.models"), name)(num_classes=CLASSES, **options)
    return model


def of_transformers(name: str, options: dict[str, Any]) -> nn.Module:
    """An image classifier of Hugging Face's transformers, by the prefix of its class."""
    library = importlib.import_module("transformers")
    config = getattr(library, f"{name}Config")(num_labels=CLASSES, **options)
    model: nn.Module = getattr(library, f"{name}ForImageClassification")(config)
    return model


BUILDERS: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "timm": of_timm,
    "torchvision": of_torchvision,
    "transformers": of_transformers,
}

_VIT = {"depth": 2, "img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 4}
_SWIN = {"depths": (1, 2), "embed_dim": 24, "num_heads": (2, 4), "img_size": 64, "window_size": 4}
_HF_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
_HF_SWIN = {"image_size": 64, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
_HF_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_TV_SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4],
}

ARCHITECTURES = (
    Architecture("timm", "resnet18", {}),
    Architecture("timm", "resnext26ts", {}),
    Architecture("timm", "resnest14d", {}),
    Architecture("timm", "seresnet18", {}),
    Architecture("timm", "ecaresnet26t", {}),
    Architecture("timm", "skresnet18", {}),
    Architecture("timm", "res2net50_14w_8s", {}),
    Architecture("timm", "densenet121", {}),
    Architecture("timm", "dla34", {}),
    Architecture("timm", "vgg11_bn", {}),
    Architecture("timm", "efficientnet_b0", {}),
    Architecture("timm", "mobilenetv2_100", {}),
    Architecture("timm", "mobilenetv3_small_100", {}),
    Architecture("timm", "mobilenetv4_conv_small", {}),
    Architecture("timm", "rexnet_100", {}),
    Architecture("timm", "regnety_002", {}),
    Architecture("timm", "repvgg_a0", {}),
    Architecture("timm", "mobileone_s0", {}),
    Architecture("timm", "ghostnet_050", {}),
    Architecture("timm", "hardcorenas_a", {}),
    Architecture("timm", "cspresnet50", {}),
    Architecture("timm", "dm_nfnet_f0", {}),
    Architecture("timm", "nf_resnet50", {}),
    Architecture("timm", "resnetv2_50", {}),
    Architecture("timm", "convnext_atto", {}),
    Architecture("timm", "convnextv2_atto", {}),
    Architecture("timm", "poolformer_s12", {}),
    Architecture("timm", "edgenext_xx_small", {}),
    Architecture("timm", "fastvit_t8", {}),
    Architecture("timm", "inception_next_atto", {}),
    Architecture("timm", "starnet_s1", {}),
    Architecture("timm", "mixer_s32_224", {"img_size": 64}),
    Architecture("timm", "vit_tiny_patch16_224", _VIT, 32),
    Architecture("timm", "deit3_small_patch16_224", _VIT, 32),
    Architecture("timm", "beit_base_patch16_224", _VIT, 32),
    Architecture("timm", "cait_xxs24_224", {**_VIT, "patch_size": 16}, 32),
    Architecture("timm", "xcit_nano_12_p8_224", {**_VIT}, 32),
    Architecture("timm", "eva02_tiny_patch14_224", {**_VIT, "img_size": 28, "patch_size": 14}, 28),
    Architecture("timm", "vit_relpos_small_patch16_224", _VIT, 32),
    Architecture("timm", "swin_tiny_patch4_window7_224", _SWIN),
    Architecture("timm", "swinv2_tiny_window8_256", _SWIN),
    Architecture("timm", "pvt_v2_b0", {}),
    Architecture("timm", "mobilevit_xxs", {}),
    Architecture("timm", "levit_128s", {"embed_dim": (32, 48, 64), "depth": (1, 1, 1), "img_size": 64}),
    Architecture("torchvision", "resnet18", {}),
    Architecture("torchvision", "mobilenet_v2", {}),
    Architecture("torchvision", "mnasnet0_5", {}),
    Architecture("torchvision", "shufflenet_v2_x0_5", {}),
    Architecture("torchvision", "squeezenet1_1", {}),
    Architecture("torchvision", "googlenet", {"aux_logits": False, "init_weights": False}),
    Architecture(
        "torchvision",
        "VisionTransformer",
        {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 48, "mlp_dim": 96},
        32,
    ),
    Architecture("torchvision", "SwinTransformer", _TV_SWIN),
    Architecture("transformers", "ViT", _HF_VIT, 32),
    Architecture("transformers", "DeiT", _HF_VIT, 32),
    Architecture("transformers", "Beit", _HF_VIT, 32),
    Architecture("transformers", "Dinov2", {**_HF_VIT, "mlp_ratio": 2}, 32),
    Architecture("transformers", "Swin", _HF_SWIN),
    Architecture("transformers", "ConvNext", _HF_STAGES),
    Architecture("transformers", "ResNet", {**_HF_STAGES, "embedding_size": 16}),
    Architecture("transformers", "RegNet", {**_HF_STAGES, "embedding_size": 16, "groups_width": 4}),
)


def prepared(architecture: Architecture) -> Network:
    """The network ready to be compressed."""
    return Network.prepared(architecture.build(), torch.zeros(1, 3, architecture.pixels, architecture.pixels))


def each_neuron_once(structure: Structure) -> list[Group]:
    """Groups that together hold every neuron once: heads only where no dimensions inside them can be pruned."""
    inside = {
        layer for group in structure.groups if group.kind in ("query-key", "value-output") for layer in group.layers
    }
    return [group for group in structure.groups if group.kind != "heads" or not inside & set(group.layers)]


def share_removed(network: Network, groups: Iterable[Group], parameters: int) -> float:
    """The share of weights that is gone with half of the pairings of some groups."""
    sizes = {group.number: max(smallest(group), size_after(group.size, SPARSITY)) for group in groups}
    return 1 - parameters_after(network.model, network.structure, sizes) / parameters


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop a block that takes more processor time.

    Raises:
        TimeoutError: it did.
    """

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def share_of_torch_pruning(architecture: Architecture) -> float:
    """The share of weights that Torch-Pruning removes.

    Raises:
        Exception: whatever it fails with, or that it takes too long: where channels are reshaped again and again, as by
            torchvision's windows, the indices that it follows multiply.
    """
    torch_pruning = importlib.import_module("torch_pruning")
    model = architecture.build()
    before = parameter_count(model)
    example = torch.randn(1, 3, architecture.pixels, architecture.pixels)
    with limited(PATIENCE):
        prune_by_torch_pruning(torch_pruning, model, example)
    model(example)
    return float(1 - parameter_count(model) / before)


def prune_by_torch_pruning(torch_pruning: Any, model: nn.Module, example: torch.Tensor) -> None:
    """Let Torch-Pruning remove half of everything but the classifier and heads."""
    classifiers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == CLASSES]
    heads = {
        module.qkv: module.num_heads
        for module in model.modules()
        if hasattr(module, "qkv") and hasattr(module, "num_heads")
    }
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=SPARSITY,
        ignored_layers=classifiers,
        num_heads=heads,
    )
    pruner.step()


def row(architecture: Architecture) -> dict[str, Any]:
    """What stands in the table for one network."""
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    before = parameter_count(architecture.build())
    found |= {"library": architecture.library, "network": architecture.name, "weights": before}
    try:
        network = prepared(architecture)
    except ValueError as error:
        return found | {"why kept": f"refused: {error}"[:160]}
    structure = network.structure
    kinds = Counter(group.kind for group in structure.groups)
    found |= {"groups": ", ".join(f"{count} {kind}" for kind, count in kinds.items()), "kept": len(structure.kept)}
    found["half"] = share_removed(network, each_neuron_once(structure), before)
    found["all"] = share_removed(network, structure.groups, before)
    try:
        found["Torch-Pruning"] = share_of_torch_pruning(architecture)
    except Exception as error:  # it guesses at what it does not know
        found["it fails with"] = f"{type(error).__name__}: {error}"[:80]
    if structure.kept:
        layer, reason = structure.kept[0]
        found["why kept"] = f"{layer}: {reason}"[:160]
    return found


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows as a table of these columns: shares in percent, large numbers in millions."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.1%}"
        if isinstance(value, int) and value >= 10_000:
            return f"{value / 1e6:.2f} M"
        return "" if value is None else str(value).replace("|", "/")

    lines = [columns, ["---"] * len(columns), *([cell(each[column]) for column in columns] for each in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    from pathlib import Path

    from measuring import Table, announce, machine, parser, write

    options = parser(__doc__, "architectures.parquet")
    options.add_argument("networks", nargs="*", help="names; all if none are given")
    options.add_argument("--markdown", type=Path, help="write the table here too")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    conditions = machine("torch", "torchvision", "timm", "transformers", "torch-pruning")
    announce(conditions)
    table, rows = Table("Share of weights removed at half of the pairings"), []
    for architecture in ARCHITECTURES:
        if not arguments.networks or architecture.name in arguments.networks:
            rows.append(row(architecture))
            table.add(**rows[-1])
    if arguments.markdown:
        shown = [each | {"Torch-Pruning": "fails"} if each["it fails with"] else each for each in rows]
        arguments.markdown.write_text(markdown(shown, [name for name in COLUMNS if name != "it fails with"]))
    write(arguments.out, conditions, table)


if __name__ == "__main__":
    main()
