"""The results that a report can hold, by id, each a small function of a run's tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from reports import comparisons, figures, ranking, reproduction, runtime, tradeoffs
from reports.cells import cells_table
from reports.published import curves
from reports.selection import (
    Tables,
    baselines,
    data_free_rows,
    final_rows,
    pipeline_rows,
    pipelines_of,
    variants,
    whole_network_rows,
)
from reports.statistics import over_seeds
from reports.tables import Table, number, signed

Item = tuple[str, Figure | Table]


@dataclass(frozen=True)
class Result:
    """One entry of the catalogue.

    Attributes:
        shows: one sentence.
        needs: what an experiment must have for it.
        make: yields names and figures or tables; nothing where data is missing.
    """

    shows: str
    needs: str
    make: Callable[[Tables], Iterator[Item]]


def data_free_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against neuron sparsity, a panel a group, a figure a model."""
    rows = data_free_rows(tables)
    drawn = rows.assign(variant=variants(rows, "pipeline"))
    if tables.published:
        theirs = curves(rows)
        several = " · " + theirs["criterion"] if rows["criterion"].nunique() > 1 else ""
        drawn = pd.concat([drawn, theirs.assign(variant=theirs["method"] + several + ", published")])
    for model, frame in drawn.groupby("model", sort=False):
        panels = {f"group {group}": frame[frame["group"] == group] for group in sorted(frame["group"].unique())}
        start = baselines(tables.evaluations, str(model))
        label = "neuron sparsity of the group (%)"
        yield f"data-free-{model}", sparsity_figure(panels, dict.fromkeys(panels, start), label)


def whole_network_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against neuron sparsity when all groups are pruned, a panel a model."""
    rows = whole_network_rows(tables)
    if rows.empty:
        return
    frame = rows.assign(variant=variants(rows, "pipeline"))
    panels = {str(model): part for model, part in frame.groupby("model", sort=False)}
    starts = {model: baselines(tables.evaluations, model) for model in panels}
    yield "whole-network", sparsity_figure(panels, starts, "neuron sparsity of all groups (%)", columns=2)


def sparsity_figure(
    panels: dict[str, pd.DataFrame], starts: dict[str, pd.DataFrame], label: str, columns: int = 4
) -> Figure:
    """Mean accuracy against neuron sparsity by variant, a panel a title; whole-data begins at the panel's start."""
    figure, axes = figures.panels(list(panels), columns)
    looks = figures.style(sorted({name for frame in panels.values() for name in frame["variant"]}))
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        start = over_seeds(starts[title], ["neuron_sparsity"])
        means = over_seeds(frame, ["pipeline", "variant", "neuron_sparsity"])
        for (pipeline, variant), points in means.groupby(["pipeline", "variant"]):
            if pipeline == "whole-data" and points["neuron_sparsity"].min() > 0:
                points = pd.concat([start, points])
            figures.curve(axis, points, "neuron_sparsity", looks[variant])
    figures.label(figure, label)
    figures.legend(figure, looks)
    return figure


def data_free_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by group and sparsity, and the gain of Intra-Fusion over conventional pruning."""
    caption = "Test accuracy (%) after pruning one group, without fine-tuning."
    yield from methods_table("data-free", caption, data_free_rows(tables), "group", gain=True)


def data_free_mean_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by sparsity, mean over the groups."""
    caption = "Test accuracy (%) after pruning one group, without fine-tuning, mean over all groups and seeds."
    rows = data_free_rows(tables)
    over_groups = rows.groupby([*GRID, "method", "seed"], as_index=False)["accuracy"].mean()
    yield from methods_table("data-free-mean", caption, over_groups)


def whole_network_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by sparsity when all groups are pruned."""
    caption = "Test accuracy (%) after pruning all groups, without fine-tuning."
    yield from methods_table("whole-network", caption, whole_network_rows(tables))


GRID = ["model", "pipeline", "criterion", "target_sparsity"]


def methods_table(name: str, caption: str, rows: pd.DataFrame, *further: str, gain: bool = False) -> Iterator[Item]:
    """A row a point of the grid, a column a method; nothing without rows."""
    if rows.empty:
        return
    by = [*GRID[:3], *further, GRID[3]]
    means = over_seeds(rows, [*by, "method"]).pivot(index=by, columns="method", values=["mean", "std"]).sort_index()
    methods = list(means["mean"].columns)
    gain = gain and {"conventional", "intra-fusion"} <= set(methods)
    keys = [[*map(str, key[:-1]), f"{100 * key[-1]:g}"] for key in means.index]
    columns = [map(number, means["mean", method], means["std", method]) for method in methods]
    if gain:
        columns.append(map(signed, means["mean", "intra-fusion"] - means["mean", "conventional"]))
    body = [[*key, *cells] for key, cells in zip(keys, zip(*columns, strict=True), strict=True)]
    head = [*by[:-1], "sparsity (%)", *methods, *["Intra-Fusion gain"] * gain]
    yield name, Table(caption, head, body, 3)


def pipelines_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against weight sparsity after fine-tuning, a panel a method, a figure a model."""
    rows = pipeline_rows(tables)
    for model, frame in rows.assign(variant=variants(rows)).groupby("model", sort=False):
        names = sorted(frame["variant"].unique())
        figure, axes = figures.panels(names, columns=2)
        looks = figures.style(pipelines_of(frame))
        for axis, name in zip(axes, names, strict=True):
            means = over_seeds(frame[frame["variant"] == name], ["pipeline", "weight_sparsity"])
            for pipeline, look in looks.items():
                figures.curve(axis, means[means["pipeline"] == pipeline], "weight_sparsity", look)
        figures.label(figure, "weight sparsity (%)")
        figures.legend(figure, looks)
        yield f"pipelines-{model}", figure


def pipelines_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of whole-data, FaP and PaF after fine-tuning by model, sparsity, criterion and method."""
    rows = pipeline_rows(tables)
    if rows.empty:
        return
    by = ["model", "criterion", "method", "target_sparsity"]
    pipelines = pipelines_of(rows)
    means = over_seeds(rows, [*by, "pipeline"])
    shares = rows.groupby(by)["weight_sparsity"].mean()
    body = []
    for key, cells in means.groupby(by, sort=True):
        model, criterion, method, sparsity = key
        found = cells.set_index("pipeline")
        row = [str(model), str(criterion), str(method), f"{100 * sparsity:g}", f"{100 * shares.loc[key]:.1f}"]
        body.append(row + [number(found["mean"].get(p, float("nan")), found["std"].get(p)) for p in pipelines])
    head = ["model", "criterion", "method", "sparsity (%)", "weight sparsity (%)", *pipelines]
    yield "pipelines", Table("Test accuracy (%) after pruning all groups and fine-tuning.", head, body, 3)


def models_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of the unpruned models: trained on everything, on the subsets, and fused."""
    frame = tables.evaluations
    rows = frame[frame["stage"].isin(["baseline", "fused"]) & frame["target_sparsity"].isna()]
    if rows.empty:
        return
    fused = rows["fusion"].fillna("activations").map("subsets, fused by {}".format)
    cuts = [f"{row.folds:g} {row.split}" if isinstance(row.split, str) else "–" for row in rows.itertuples()]
    named = rows.assign(training_data=rows["training_data"].fillna(fused), cut=cuts)
    by = ["model", "cut", "training_data", "parameters", "macs"]
    body = [
        [
            row.model,
            row.cut,
            row.training_data,
            f"{row.parameters:,}",
            f"{row.macs / 1e6:.2f}",
            number(row.mean, row.std),
        ]
        for row in over_seeds(named, by).sort_values(by).itertuples()
    ]
    head = ["model", "folds", "trained on", "parameters", "million MACs", "accuracy"]
    yield "models", Table("Test accuracy (%) of the unpruned models.", head, body, 3)


def accuracy_against(cost: str) -> Callable[[Tables], Iterator[Item]]:
    """What makes the figures of accuracy against a cost."""

    def make(tables: Tables) -> Iterator[Item]:
        rows = final_rows(tables)
        whole = rows[rows["group"].isna() & rows["method"].notna()]
        start = tables.evaluations[tables.evaluations["stage"] == "baseline"]
        start = start[start["training_data"] == "whole"]
        drawn = whole.assign(variant=variants(whole, "pipeline"))
        for model, figure in tradeoffs.figures_against(tradeoffs.COSTS[cost], drawn, start):
            yield f"accuracy-against-{cost}-{model}", figure

    return make


def all_cells(tables: Tables) -> Iterator[Item]:
    """Every measured network with its accuracy and its costs."""
    frame = tables.evaluations
    rows = frame[frame["final"] | (frame["stage"] == "baseline")]
    if not rows.empty:
        yield "cells", cells_table(rows)


def ranks_tables(tables: Tables) -> Iterator[Item]:
    """Methods ranked over all cells, with intervals and tests where there are several seeds."""
    rows = final_rows(tables)
    yield from ranking.tables(rows[rows["method"].notna()])


def reproduction_tables(tables: Tables) -> Iterator[Item]:
    """What was measured beside what the paper prints."""
    frame = tables.evaluations
    yield from reproduction.tables(final_rows(tables), frame[frame["stage"] == "baseline"], tables.settings)


def splits_figure(tables: Tables) -> Iterator[Item]:
    """Which stretches of the shuffled training set each split model sees."""
    frame = tables.splits.drop_duplicates(["split", "folds", "training_data", "part"])
    for (split, folds), cuts in frame.groupby(["split", "folds"], sort=False):
        names = sorted(cuts["training_data"].unique(), key=lambda name: int(name.partition("-")[2]), reverse=True)
        figure, (axis,) = figures.panels([f"{split}, {folds:g} parts"], columns=1)
        for row in cuts.itertuples():
            bar = [(100 * row.start, 100 * (row.end - row.start))]
            axis.broken_barh(bar, (names.index(row.training_data) - 0.35, 0.7), color="#0072B2", edgecolor="white")
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("shuffled training set (%)")
        axis.set_xlim(0, 100)
        yield comparisons.stem("splits", split, f"{folds:g}"), figure


RESULTS: dict[str, Result] = {
    "models": Result("accuracy and size of the unpruned models", "any experiment", models_table),
    "splits-figure": Result("what of the training set each split model sees", "pipelines fap or paf", splits_figure),
    "data-free-figure": Result(
        "accuracy against neuron sparsity, a group at a time", "a data-free grid of each group", data_free_figure
    ),
    "data-free-table": Result(
        "accuracy of each method a group at a time, and the gain of Intra-Fusion",
        "a data-free grid of each group",
        data_free_table,
    ),
    "data-free-mean": Result(
        "accuracy of each method a group at a time, mean over the groups",
        "a data-free grid of each group",
        data_free_mean_table,
    ),
    "whole-network-figure": Result(
        "accuracy against neuron sparsity when all groups are pruned",
        "a data-free grid of all groups",
        whole_network_figure,
    ),
    "whole-network-table": Result(
        "accuracy of each method when all groups are pruned", "a data-free grid of all groups", whole_network_table
    ),
    "pipelines-figure": Result(
        "whole-data, FaP and PaF against weight sparsity", "a fine-tuned grid", pipelines_figure
    ),
    "pipelines-table": Result(
        "accuracy of whole-data, FaP and PaF after fine-tuning", "a fine-tuned grid", pipelines_table
    ),
    "figure-5": Result(
        "distances of the outputs to those before pruning",
        "a grid with output_distances: true",
        lambda tables: comparisons.distance_figures(tables.distances),
    ),
    "output-distances": Result(
        "the means of these distances",
        "a grid with output_distances: true",
        lambda tables: comparisons.distance_table(tables.distances),
    ),
    "figure-6": Result(
        "accuracy over the plane through the original and two pruned networks",
        "a grid with landscape: {}",
        lambda tables: comparisons.landscape_figures(tables.landscapes),
    ),
    "table-4": Result(
        "accuracy of Intra-Fusion by source and target distribution",
        "a data-free grid with Intra-Fusion's marginals, several seeds",
        lambda tables: comparisons.distributions_table(data_free_rows(tables)),
    ),
    "figure-19": Result(
        "Kruskal-Wallis p-values between these distributions",
        "a data-free grid with Intra-Fusion's marginals, several seeds",
        lambda tables: comparisons.distributions_figure(data_free_rows(tables)),
    ),
    "figure-20": Result(
        "test accuracy by epoch of the whole-data and the split models",
        "trainings of more than an epoch",
        lambda tables: runtime.training_figure(tables.epochs),
    ),
    "figure-22": Result(
        "the stages of whole-data, FaP and PaF in time",
        "a fine-tuned grid",
        lambda tables: runtime.runtime_figure(pipeline_rows(tables), tables.plan, tables.timings),
    ),
    "runtime": Result(
        "seconds and speed-ups of the pipelines",
        "a fine-tuned grid",
        lambda tables: runtime.runtime_table(pipeline_rows(tables), tables.plan, tables.timings),
    ),
    "split-training": Result(
        "how many split models were trained at a time",
        "pipelines fap or paf",
        lambda tables: runtime.overlap_table(tables.timings),
    ),
    **{
        f"accuracy-against-{name}": Result(
            f"accuracy against {name.replace('-', ' ').replace('macs', 'MACs')}, and the Pareto front",
            "a grid of all groups",
            accuracy_against(name),
        )
        for name in tradeoffs.COSTS
    },
    "ranks": Result("methods over all cells", "a grid with two methods", ranks_tables),
    "reproduction": Result(
        "measured beside published", "a width-1 model, data set and grid of the paper", reproduction_tables
    ),
    "cells": Result("every measured network, its accuracy and its costs", "any experiment", all_cells),
}
