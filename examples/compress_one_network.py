"""Train a narrow ResNet18 on the digits, shrink every group by several methods, and compare what is left.

python examples/compress_one_network.py [--epochs 3] [--sparsity 0.3]
"""

import argparse

import torch

from metaprune import CompressionConfig, Network, Sources, compress
from workloads.config import DatasetConfig, ModelConfig, TrainingConfig
from workloads.data import datasets
from workloads.measuring.evaluation import evaluate, mac_count, parameter_count
from workloads.networks.models import build
from workloads.training.loop import train


def main() -> None:
    """Print accuracy, parameters and MACs of the network before and after each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sparsity", type=float, default=0.3)
    options = parser.parse_args()

    torch.set_num_threads(1)  # a network as small as this one gains nothing from more
    # Any PyTorch module and any images would do; these two come with metaprune.
    dataset = datasets.load(DatasetConfig(name="digits", size=32, augmentation=("crop",)))
    model = build(ModelConfig(name="resnet18", width=0.125), channels=1, classes=10, seed=0)
    settings = TrainingConfig(epochs=options.epochs, batch_size=64, schedule="one-cycle", learning_rate=0.1)
    train(model, dataset, settings, seed=0, augmentation=("crop",))

    # What criteria and methods may look at: some labelled batches, and the same images without labels.
    batches = list(dataset.batches("train", 128, "cpu", dataset.train_pool[:512]))
    images = [images for images, _ in batches]
    sources = Sources(images[0][:1], batches=batches, images=images)
    network = Network.prepared(model, images[0][:1])

    print(f"{'method':<34} {'accuracy (%)':>12} {'parameters':>11} {'MACs':>11}")

    def show(name: str, module: torch.nn.Module) -> None:
        accuracy = evaluate(module, dataset).accuracy
        macs = mac_count(module, dataset.shape)
        print(f"{name:<34} {accuracy:>12.1f} {parameter_count(module):>11,} {macs:>11,}")

    show("none", network.model)
    for method, repair in (
        ("conventional", "none"),
        ("intra-fusion", "none"),
        ("folding", "none"),
        ("reconstruction", "none"),
        ("intra-fusion", "data"),
        ("folding", "data"),
    ):
        config = CompressionConfig(sparsity=options.sparsity, criterion="l1", method=method, repair=repair)
        name = method if repair == "none" else f"{method}, repaired on images"
        show(name, compress(network, config, sources).model)


if __name__ == "__main__":
    main()
