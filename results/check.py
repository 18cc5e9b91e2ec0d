"""Recompute every claim of results/README.md from the Parquet files beside it; exit status 1 if one no longer holds.

python results/check.py
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from reports import load
from reports.selection import tables_of

HERE = Path(__file__).parent
NETWORKS = {"vgg11_bn": "methods-vgg11_bn", "resnet18": "methods-resnet18"}
HALVES = "halves-vgg11_bn"

# (sentence, measured value, whether it holds)
Claim = tuple[str, float, bool]


def claims() -> Iterator[Claim]:
    """Every claim with its number."""
    for network, run in NETWORKS.items():
        yield from of_methods(network, tables_of(HERE / run).evaluations)
    yield from of_halves(load(HERE / HALVES))


def of_methods(network: str, frame: pd.DataFrame) -> Iterator[Claim]:
    """Methods without fine-tuning on trained weights."""
    final = frame[frame["final"]]
    one = final[final["group"].notna()].pivot_table(
        index=["group", "target_sparsity"], columns="method", values="accuracy"
    )
    one = one[["conventional", "intra-fusion", "fusion-preserving", "folding", "reconstruction"]].dropna()
    gains = one.mean() - one.mean()["intra-fusion"]
    losses = one.sub(one["conventional"], axis=0).min()
    for name, least in (("folding", 1.5), ("reconstruction", 1.5), ("fusion-preserving", 0.5)):
        value = gains[name]
        yield f"{network}, one group: {name} is ahead of Intra-Fusion in the mean", value, value >= least
    for name in ("folding", "fusion-preserving"):
        value = losses[name]
        yield f"{network}, one group: {name}'s worst cell against conventional pruning", value, value >= -1.0
    value = gains["conventional"]
    yield f"{network}, one group: conventional pruning against Intra-Fusion in the mean", value, value <= -5
    whole = final[final["group"].isna()].pivot_table(index="target_sparsity", columns="method", values="accuracy")
    for name in ("conventional", "intra-fusion", "folding"):
        value = (whole[f"{name}, repair"] - whole[name]).min()
        yield f"{network}, all groups: least gain of {name} by repair on data", value, value >= 0


def of_halves(frame: pd.DataFrame) -> Iterator[Claim]:
    """Two halves of the training set, fused."""
    base = frame[frame["stage"] == "baseline"].set_index("training_data")["accuracy"]
    fused = frame[(frame["stage"] == "fused") & frame["target_sparsity"].isna()].set_index("fusion")["accuracy"]
    value = fused["activations"] - fused["none"]
    yield "fused by activations against plain averaging, both repaired", value, value >= 25
    value = fused["activations(repair=False)"] - fused["none(repair=False)"]
    yield "the same without repair", value, value >= 25
    value = fused["activations"] - fused["activations(repair=False)"]
    yield "what repair adds to fusion by activations", value, value >= 25
    value = fused["activations"] - max(base["subset-1"], base["subset-2"])
    yield "fused by activations and repaired, untrained, against the better half", value, value >= -4
    ends = frame[frame["final"] & (frame["stage"] == "fine-tuned")].groupby("pipeline")["accuracy"].mean()
    for pipeline in ("fap", "paf"):
        value = ends[pipeline] - ends["whole-data"]
        yield f"{pipeline} against whole-data, mean of both sparsities", value, -5 <= value <= 0


def check(tell: Callable[[str], object] = print) -> bool:
    """Tell every claim; whether all hold."""
    found = list(claims())
    for sentence, value, holds in found:
        tell(f"{'holds ' if holds else 'BROKEN'} {value:+7.2f}  {sentence}")
    return all(holds for *_, holds in found)


if __name__ == "__main__":
    sys.exit(not check())
