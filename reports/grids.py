"""Figures and tables of grids of pruning: single groups, whole networks, pipelines, and the models they start from."""

from collections.abc import Callable, Iterator

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports import figures, ranking, reproduction, tradeoffs
from reports.cells import cells_table
from reports.published import curves, sparsities
from reports.selection import (
    SAME_WORK,
    Tables,
    baselines,
    cuts_of,
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
MOST_LINES = 8  # in a panel; with more, each criterion has a figure of its own


def data_free_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against neuron sparsity, a panel a group, a figure a model and setting of the grid such as repair."""
    rows = data_free_rows(tables)
    names = variants(rows, "pipeline", of="plain")
    if rows["criterion"].nunique() > 1 and (tables.published or names.nunique() > MOST_LINES):
        for criterion in rows["criterion"].unique():
            yield from data_free_figures(tables, rows[rows["criterion"] == criterion], criterion)
        return
    yield from data_free_figures(tables, rows)


def data_free_figures(tables: Tables, rows: pd.DataFrame, *of: str) -> Iterator[Item]:
    """The figures of some rows, whose names end in what they are `of`."""
    drawn = rows.assign(variant=variants(rows, "pipeline", of="plain"))
    if tables.published:
        theirs = curves(rows)
        drawn = pd.concat([drawn, theirs.assign(variant=theirs["method"] + figures.PUBLISHED, settings="")])
    for (model, settings), frame in drawn.groupby(["model", "settings"], sort=True):
        panels = {f"group {group}": frame[frame["group"] == group] for group in sorted(frame["group"].unique())}
        start = baselines(tables.evaluations, str(model))
        label = "neuron sparsity of the group (%)"
        name = figures.stem("data-free", model, *[settings] * bool(settings), *of)
        yield name, sparsity_figure(panels, dict.fromkeys(panels, start), label)


def whole_network_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against neuron sparsity when all groups are pruned, a panel a model and setting of the grid."""
    rows = whole_network_rows(tables)
    if rows.empty:
        return
    frame = rows.assign(variant=variants(rows, "pipeline", of="plain"))
    panels, starts = {}, {}
    for (model, settings), part in frame.groupby(["model", "settings"], sort=True):
        title = f"{model}, {settings}" if settings else str(model)
        panels[title], starts[title] = part, baselines(tables.evaluations, str(model))
    columns = 3 if frame["settings"].nunique() == 3 else 2
    yield "whole-network", sparsity_figure(panels, starts, "neuron sparsity of all groups (%)", columns)


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


def methods_table(
    name: str, caption: str, rows: pd.DataFrame, *further: str, gain: bool = False, weights: bool = False
) -> Iterator[Item]:
    """A row a point of the grid, with its sparsity of weights if that is wanted, a column a method."""
    if rows.empty:
        return
    by = [*GRID[:3], *further, GRID[3]]
    means = over_seeds(rows, [*by, "method"]).pivot(index=by, columns="method", values=["mean", "std"]).sort_index()
    methods = list(means["mean"].columns)
    gain = gain and {"conventional", "intra-fusion"} <= set(methods)
    keys = [[*map(str, key[:-1]), f"{100 * key[-1]:g}"] for key in means.index]
    if weights:
        shares = rows.groupby(by)["weight_sparsity"].mean()
        keys = [[*key, f"{100 * shares.loc[point]:.1f}"] for key, point in zip(keys, means.index, strict=True)]
    columns = [map(number, means["mean", method], means["std", method]) for method in methods]
    if gain:
        columns.append(map(signed, means["mean", "intra-fusion"] - means["mean", "conventional"]))
    body = [[*key, *cells] for key, cells in zip(keys, zip(*columns, strict=True), strict=True)]
    head = [*by[:-1], "sparsity (%)", *["weight sparsity (%)"] * weights, *methods, *["Intra-Fusion gain"] * gain]
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
        yield figures.stem("pipelines", model), figure


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
    named = rows.assign(training_data=rows["training_data"].fillna(fused), cut=cuts_of(rows))
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
        drawn = whole.assign(variant=variants(whole, "pipeline", of="plain"))
        for model, figure in tradeoffs.figures_against(tradeoffs.COSTS[cost], drawn, start):
            yield figures.stem("accuracy-against", cost, model), figure

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
        yield figures.stem("splits", split, f"{folds:g}"), figure


def fine_tuned_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method after pruning all groups with fine-tuning, and the gain of Intra-Fusion."""
    rows = pipeline_rows(tables)
    caption = "Test accuracy (%) after pruning all groups and fine-tuning, whole-data."
    whole = rows[rows["pipeline"] == "whole-data"]
    yield from methods_table("fine-tuned", caption, whole, gain=True, weights=True)


def published_cells(tables: Tables, table: int) -> Iterator[Item]:
    """The cells of one of the paper's tables: published, measured and difference, and how far the gains agree."""
    cells = reproduction.graded(final_rows(tables))
    if (cells["table"] == table).any():
        yield "published", reproduction.cells_table(cells[cells["table"] == table])


def seeds_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of the models before pruning, a column a seed."""
    frame = tables.evaluations
    rows = frame[frame["stage"] == "baseline"]
    if rows.empty:
        return
    by = ["model", "cut", "training_data"]
    table = rows.assign(cut=cuts_of(rows)).pivot_table(index=by, columns="seed", values="accuracy").sort_index()
    body = [[*map(str, key), *map(number, cells)] for key, cells in zip(table.index, table.to_numpy(), strict=True)]
    head = ["model", "folds", "trained on", *(f"seed {seed}" for seed in table.columns)]
    yield "models-by-seed", Table("Test accuracy (%) of the unpruned models, by seed.", head, body, 3)


def sparsity_table(tables: Tables) -> Iterator[Item]:
    """What share of the weights goes with a share of the neurons of all groups."""
    rows = whole_network_rows(tables)
    rows = rows[(rows["sparsity_of"] == "neurons") & (rows["allocation"] == "uniform")]
    if rows.empty:
        return
    sizes = rows.groupby(["model", "target_sparsity"])[["parameters", "weight_sparsity"]].mean()
    theirs = sparsities().reindex([(model.partition(" ")[0], sparsity) for model, sparsity in sizes.index])
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
    head = ["model", "neuron sparsity (%)", "parameters", "weight sparsity (%)", "published parameters"]
    head.append("published weight sparsity (%)")
    yield "sparsities", Table("Parameters that are left when the neurons of all groups are pruned.", head, body, 1)


def retraining_figure(tables: Tables) -> Iterator[Item]:
    """How far PaF is ahead of whole-data after equally much retraining, by epochs of PaF's last one."""
    ends = pipeline_rows(tables).set_index("cell")
    curves = tables.epochs[tables.epochs["cell"].isin(ends.index)].dropna(subset="test_accuracy")
    if curves.empty:
        return
    curves = curves[["cell", "epoch", "test_accuracy"]].join(ends[[*SAME_WORK, "pipeline"]], on="cell")
    last = curves.groupby("cell")["epoch"].transform("max")
    whole = curves["pipeline"] == "whole-data"
    # whole-data's last retraining has the epochs of PaF's intermediate and last one
    curves = curves.assign(epoch=curves["epoch"].where(~whole, curves["epoch"] - last // 2))
    pairs = curves[curves["pipeline"].str.startswith("PaF")].merge(
        curves.loc[whole, [*SAME_WORK, "epoch", "test_accuracy"]], on=[*SAME_WORK, "epoch"], suffixes=("", "_whole")
    )
    pairs = pairs.assign(gain=pairs["test_accuracy"] - pairs["test_accuracy_whole"])
    several = pairs["pipeline"].nunique() > 1
    for (model, criterion, pipeline), frame in pairs.groupby(["model", "criterion", "pipeline"], sort=True):
        methods = sorted(frame["method"].unique())
        figure, axes = figures.panels(methods, columns=2)
        names = {sparsity: f"{100 * sparsity:g} %" for sparsity in sorted(frame["target_sparsity"].unique())}
        looks = figures.style(list(names.values()))
        for axis, method in zip(axes, methods, strict=True):
            means = over_seeds(frame[frame["method"] == method], ["target_sparsity", "epoch"], "gain")
            for sparsity, points in means.groupby("target_sparsity"):
                figures.curve(axis, points, "epoch", looks[names[sparsity]], scale=1)
            axis.axhline(0, color="black", linewidth=0.5)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.supxlabel("epochs of the last retraining", fontsize=8)
        figure.supylabel("PaF − whole-data (points)", fontsize=8)
        figures.legend(figure, looks)
        yield figures.stem("retraining", model, criterion, *[pipeline] * several), figure
