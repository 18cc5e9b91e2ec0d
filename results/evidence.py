"""The runs in this folder, and the numbers of theirs that several tables and claims rest on."""

from functools import cache
from pathlib import Path

import pandas as pd

from reports.exhibits.ranking import scopes
from reports.results.selection import Tables, tables_of
from reports.statistics import average_ranks, by_method, paired_differences

HERE = Path(__file__).parent
DATA_FREE = {"VGG11-BN": "data-free-vgg11_bn", "ResNet18": "data-free-resnet18"}
FINE_TUNED = {"VGG11-BN": "fine-tuned-vgg11_bn", "ResNet18": "fine-tuned-resnet18"}
COMPENSATION = {"VGG11-BN": "compensation-vgg11_bn", "ResNet18": "compensation-resnet18"}
SELECTING = ("conventional",)
VIT = "vit-cifar10"
KINDS = ("query-key", "hidden", "value-output", "heads", "residual")
SEEDS, HALVES, EXACT, CRITERIA = "methods-seeds", "halves-vgg11_bn", "float32-vgg11_bn", "criteria-vgg11_bn"
METHODS = {
    "conventional": "conventional",
    "intra-fusion": "intra-fusion",
    "fusion-preserving": "fusion-preserving",
    "fusion-preserving(target=k-means)": "fusion-preserving, k-means targets",
    "folding": "folding",
    "neuron-merging": "neuron-merging",
    "reconstruction": "reconstruction",
}
TUNED_METHODS = ["conventional", "intra-fusion", "folding"]
DATA_FREE_METHODS = ["fusion-preserving", "fusion-preserving(target=k-means)", "folding"]
WITHOUT_CRITERION = DATA_FREE_METHODS[1:]


@cache
def run(name: str) -> Tables:
    """The tables of a run in this folder."""
    return tables_of(HERE / name)


def final(name: str, *, groups: str) -> pd.DataFrame:
    """Final rows after pruning `one` group or `all`."""
    frame = run(name).evaluations
    return frame[frame["final"] & (frame["group"].isna() if groups == "all" else frame["group"].notna())]


def one_group(name: str) -> pd.DataFrame:
    """Accuracy a method (column) and a cell of one group under l1 that all methods have without repair."""
    frame = final(name, groups="one")
    frame = frame[(frame["criterion"] == "l1") & frame["method"].isin(METHODS)]
    return frame.pivot_table(index=["group", "target_sparsity"], columns="method", values="accuracy").dropna()


def by_criterion() -> pd.DataFrame:
    """Mean accuracy of VGG11-BN by method and criterion over the same cells; methods that use none have one for all."""
    frame = pd.concat([final(folder, groups="one") for folder in (DATA_FREE["VGG11-BN"], CRITERIA)])
    cells = frame[frame["method"].isin(METHODS) & frame["target_sparsity"].isin([0.3, 0.5, 0.7])]
    means = cells.pivot_table(index="method", columns="criterion", values="accuracy").reindex(METHODS)
    for criterion in means:
        means.loc[WITHOUT_CRITERION, criterion] = means.loc[WITHOUT_CRITERION, "l1"]
    return means[["l1", "taylor", "lamp"]]


def over_seeds(scope: str) -> pd.DataFrame:
    """Ranks, means and differences from Intra-Fusion and conventional pruning over the seeds of both small networks."""
    frame = run(SEEDS).evaluations.query("final")
    accuracies = by_method(frame[scopes(frame) == scope])
    columns = {"rank": average_ranks(accuracies), "accuracy": accuracies.mean()}
    each = pd.DataFrame(columns)
    for reference in ("conventional", "intra-fusion"):
        each = each.join(paired_differences(accuracies, reference).add_prefix(f"{reference} "))
    return each.sort_values("rank")


def after_fine_tuning(name: str) -> pd.DataFrame:
    """Accuracy by sparsity (row) and method, mean over seeds, after all steps of pruning and training."""
    ends = run(FINE_TUNED[name]).evaluations.query("final")
    return ends.pivot_table(index="target_sparsity", columns="method", values="accuracy")


def before_last_training(name: str) -> pd.DataFrame:
    """The same right after the last step of pruning."""
    rows = run(FINE_TUNED[name]).evaluations.query("stage == 'pruned' and step == 4")
    return rows.pivot_table(index="target_sparsity", columns="method", values="accuracy")


def tuned() -> pd.DataFrame:
    """The last rows of all pipelines with two halves, which are named without their one fusion."""
    frame = run(HALVES).evaluations
    ends = frame[frame["final"] & (frame["stage"] == "fine-tuned")]
    return ends.assign(pipeline=ends["pipeline"].str.split(",").str[0])


def solved(name: str) -> pd.DataFrame:
    """Accuracy over seeds of a network's cells, every group pruned: mean, least, most and how many."""
    rows = final(COMPENSATION[name], groups="all")
    choice = rows["plain"].map(METHODS).where(~rows["plain"].isin(SELECTING), rows["criterion"] + ", conventional")
    keys = [choice.rename("choice"), rows["repair"], rows["training_images"], rows["target_sparsity"]]
    return rows.groupby(keys)["accuracy"].agg(["mean", "min", "max", "count"])


def of_kinds() -> pd.DataFrame:
    """Accuracy of the vision transformers with half of a kind of neurons gone, mean over both: a row a kind, a column
    a way."""
    rows = final(VIT, groups="all")
    ways = rows["plain"].where(rows["repair"] == "none", rows["repair"])
    return rows.groupby([rows["kinds"], ways.rename("way")])["accuracy"].mean().unstack().loc[list(KINDS)]


def vit_base() -> float:
    """Accuracy of these transformers before, mean over both."""
    rows = run(VIT).evaluations
    return float(rows.loc[rows["stage"] == "baseline", "accuracy"].mean())
