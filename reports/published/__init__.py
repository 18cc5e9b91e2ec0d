"""The numbers printed in the paper, under the names that results have here (`published/README.md` tells the source)."""

from importlib.resources import files

import pandas as pd

METHODS = {"default_acc": "conventional", "intra_fusion_acc": "intra-fusion"}
MARGINALS = {
    "uTuS": "intra-fusion",
    "uTiS": "intra-fusion(source_marginal=importance)",
    "iTuS": "intra-fusion(target_marginal=importance)",
    "iTiS": "intra-fusion(source_marginal=importance, target_marginal=importance)",
}
KEYS = ["network", "dataset", "criterion", "stage", "group", "target_sparsity"]


def read(name: str) -> pd.DataFrame:
    """A file of the paper's numbers, as it is: data_free, fine_tuned, distributions, kruskal, base_models or
    sparsity_translation."""
    with (files("reports") / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def comparisons() -> pd.DataFrame:
    """Tables 1, 5 and 10–21: conventional pruning beside Intra-Fusion.

    Returns:
        Columns table, `KEYS` (group is -1 where all were pruned; target_sparsity is of neurons), conventional and
        intra-fusion (percent).
    """
    names = {"model": "network", "neuron_sparsity": "target_sparsity", **METHODS}
    one_group = read("data_free").rename(columns=names).assign(stage="pruned")
    of_neurons = read("sparsity_translation").set_index("weight_sparsity")["neuron_sparsity"]
    tuned = read("fine_tuned").rename(columns=names)
    all_groups = tuned.assign(
        table=1, criterion="l1", stage="fine-tuned", group=-1, target_sparsity=tuned["weight_sparsity"].map(of_neurons)
    )
    return pd.concat([one_group, all_groups], ignore_index=True)[["table", *KEYS, *METHODS.values()]]


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """The published accuracies of the networks, data sets and criteria in some rows, a row a point of a curve.

    Args:
        rows: evaluations of single groups.

    Returns:
        Columns network, dataset, criterion, model (as in `rows`), method, group, neuron_sparsity, accuracy (percent),
        and pipeline, which is "published".
    """
    same = ["network", "dataset", "criterion"]
    long = comparisons().melt(["table", *KEYS], list(METHODS.values()), "method", "accuracy")
    long = long[long["stage"] == "pruned"].rename(columns={"target_sparsity": "neuron_sparsity"})
    found = long.merge(rows[[*same, "model"]].drop_duplicates(), on=same)
    return found[[*same, "model", "method", "group", "neuron_sparsity", "accuracy"]].assign(pipeline="published")


def sparsities() -> pd.DataFrame:
    """Table 9: parameters and weight_sparsity (a share) by network and share of the neurons of all groups."""
    frame = read("sparsity_translation").rename(columns=lambda name: name.removesuffix("_params"))
    long = frame.melt(["neuron_sparsity", "weight_sparsity"], var_name="network", value_name="parameters")
    return long.set_index(["network", "neuron_sparsity"])


def distributions() -> pd.DataFrame:
    """Table 4: columns network, group, target_sparsity, method, accuracy (percent)."""
    frame = read("distributions").rename(
        columns={"model": "network", "neuron_sparsity": "target_sparsity", **MARGINALS}
    )
    return frame.melt(["network", "group", "target_sparsity"], var_name="method", value_name="accuracy")


def kruskal() -> pd.Series:
    """Figure 19: p-values by group and target_sparsity, read off a picture."""
    frame = read("kruskal").rename(columns={"neuron_sparsity": "target_sparsity"})
    return frame.set_index(["group", "target_sparsity"])["p_value"]


def base_models() -> pd.DataFrame:
    """Tables 6–8: columns table, network, dataset, training_data, folds (1: everything), seed, accuracy (percent)."""
    return read("base_models").rename(columns={"model": "network"})
