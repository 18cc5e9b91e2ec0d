"""The models that grids start from: how accurate and large they are, and what data they were trained on."""

import re
from collections.abc import Iterator

import pandas as pd

from reports import figures
from reports.exhibits.exhibit import Item
from reports.exhibits.grids import natural_level
from reports.names import in_order, natural
from reports.published import sparsities
from reports.results.selection import Tables, cuts_of, whole_network_rows
from reports.statistics import one_a_seed, over_seeds
from reports.tables import Table, number


def models_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of the unpruned models: trained on everything, on the subsets, given as parents, and fused."""
    frame = tables.evaluations
    rows = frame[frame["stage"].isin(["baseline", "fused"]) & frame["target_sparsity"].isna()]
    if rows.empty:
        return
    fused = rows["parents"].notna().map({True: "parents", False: "subsets"})
    fused = fused + rows["fusion"].fillna("activations").map(", fused by {}".format)
    trained_on = rows["training_data"].fillna(fused)
    named = rows.assign(
        training_data=trained_on.where(rows["note"] == "", trained_on + ", " + rows["note"]), cut=cuts_of(rows)
    )
    by = ["model", "cut", "training_data", "parameters", "macs"]
    body = [
        [
            row.model,
            row.cut,
            row.training_data,
            f"{row.parameters:,}",
            f"{row.macs / 1e6:.2f}",
            number(row.mean, row.std, row.n),
        ]
        for row in over_seeds(named, by).sort_values(by, key=natural_column).itertuples()
    ]
    head = ["model", "folds", "trained on", "parameters", "million MACs", "accuracy"]
    yield "models", Table("Test accuracy (%) of the unpruned models.", head, body, 3)


def natural_column(column: pd.Series) -> pd.Series:
    """Sorts names by the numbers in them, numbers by value."""
    return column if pd.api.types.is_numeric_dtype(column) else column.map(natural)


def seeds_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of the models before pruning, a column a seed."""
    frame = tables.evaluations
    rows = frame[frame["stage"] == "baseline"].assign(cut=lambda baseline: cuts_of(baseline))
    if rows.empty:
        return
    by = ["model", "cut", "training_data"]
    one_a_seed(rows, by)
    table = rows.pivot(index=by, columns="seed", values="accuracy").sort_index(key=natural_level)
    body = [[*map(str, key), *map(number, cells)] for key, cells in zip(table.index, table.to_numpy(), strict=True)]
    head = ["model", "folds", "trained on", *(f"seed {seed}" for seed in table.columns)]
    yield "models-by-seed", Table("Test accuracy (%) of the unpruned models, by seed.", head, body, 3)


def sparsity_table(tables: Tables) -> Iterator[Item]:
    """What share of the weights goes with a share of the neurons of all groups."""
    rows = whole_network_rows(tables)
    alike = (rows["sparsity_of"] == "neurons") & (rows["allocation"] == "uniform") & rows["groups"].isna()
    rows = rows[alike & (rows["round_to"].fillna(1) == 1)]
    if rows.empty:
        return
    sizes = rows.groupby(["model", "target_sparsity"])[["parameters", "weight_sparsity"]].mean()
    theirs = sparsities().reindex([(re.split(r"[ ,]", model)[0], sparsity) for model, sparsity in sizes.index])
    body = [
        [
            str(model),
            f"{100 * sparsity:g}",
            f"{size.parameters:,.0f}",
            f"{100 * size.weight_sparsity:.1f}",
            "–" if pd.isna(paper.parameters) else f"{paper.parameters:,.0f}",
            number(100 * paper.weight_sparsity, digits=0),
        ]
        for (model, sparsity), size, paper in zip(
            sizes.index, sizes.itertuples(index=False), theirs.itertuples(index=False), strict=True
        )
    ]
    head = ["model", "neuron sparsity (%)", "parameters", "weight sparsity (%)"]
    head += ["published, parameters", "published, weight sparsity (%)"]
    yield "sparsities", Table("Parameters that are left when the neurons of all groups are pruned.", head, body, 1, 2)


def splits_figure(tables: Tables) -> Iterator[Item]:
    """Which stretches of the shuffled training set each split model sees."""
    frame = tables.splits.drop_duplicates(["split", "folds", "training_data", "part"])
    for (split, folds), cuts in frame.groupby(["split", "folds"], sort=False):
        names = in_order(cuts["training_data"])[::-1]
        figure, (axis,) = figures.panels([f"{split}, {folds:g} parts"], columns=1)
        for row in cuts.itertuples():
            bar = [(100 * row.start, 100 * (row.end - row.start))]
            axis.broken_barh(bar, (names.index(row.training_data) - 0.35, 0.7), color="#0072B2", edgecolor="white")
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("shuffled training set (%)")
        axis.set_xlim(0, 100)
        yield figures.stem("splits", split, f"{folds:g}"), figure
