"""Pruned networks beside the original and beside each other: output distances, landscapes, distributions."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports import figures, published
from reports.selection import Tables, data_free_rows
from reports.statistics import kruskal_wallis, over_seeds
from reports.tables import Table, number

DISTRIBUTIONS = {method: name for name, method in published.MARGINALS.items()}
BINS = 40


def mass_figures(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """How the mass of importance-informed distributions lies on the neurons of each group, heaviest first."""
    for (model, criterion), frame in tables.importances.groupby(["model", "criterion"], sort=True):
        groups = sorted(frame["group"].unique())
        figure, axes = figures.panels([f"group {group:g}" for group in groups], columns=4, share=False)
        for axis, group in zip(axes, groups, strict=True):
            scores = np.sort(np.asarray(frame.loc[frame["group"] == group, "scores"].iloc[0]))[::-1]
            neurons = np.arange(1, len(scores) + 1)
            axis.fill_between(neurons, 100 * scores / scores.sum(), step="mid", color="#56B4E9", linewidth=0)
            axis.axhline(100 / len(scores), color="black", linestyle="--")
            axis.set_xlim(1, max(2, len(scores)))
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.set_ylim(bottom=0)
        figure.supxlabel("neuron, heaviest first", fontsize=8)
        figure.supylabel("mass (%)", fontsize=8)
        looks: dict[str, figures.Look] = {
            "importance": {"color": "#56B4E9", "linewidth": 6},
            "uniform": {"color": "black", "linestyle": "--"},
        }
        figures.legend(figure, looks)
        yield figures.stem("masses", model, criterion), figure


def distance_figures(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """Histograms of the output distances of each method with their means, a panel a sparsity, a figure a group."""
    by = ["model", "pipeline", "criterion", "group"]
    for key, frame in tables.distances.groupby(by, dropna=False, sort=True):
        sparsities = sorted(frame["target_sparsity"].unique())
        titles = [f"{100 * sparsity:g} % sparsity" for sparsity in sparsities]
        figure, axes = figures.panels(titles, columns=3, share=False)
        looks = figures.style(sorted(frame["method"].unique()))
        for axis, sparsity in zip(axes, sparsities, strict=True):
            cells = frame[frame["target_sparsity"] == sparsity]
            values = {name: np.concatenate(rows["distances"].to_list()) for name, rows in cells.groupby("method")}
            edges = np.linspace(0, max(1e-9, *(np.quantile(each, 0.995) for each in values.values())), BINS).tolist()
            for name, each in values.items():
                colour, dashes = looks[str(name)]["color"], looks[str(name)]["linestyle"]
                axis.hist(
                    each, edges, histtype="step", color=colour, linestyle=dashes, weights=[100 / len(each)] * len(each)
                )
                axis.axvline(each.mean(), color=colour, linestyle=dashes, linewidth=0.8)
            axis.set_xlim(0, edges[-1])
        figure.supxlabel("l2 distance of the outputs to the original's", fontsize=8)
        figure.supylabel("test images (%)", fontsize=8)
        figures.legend(figure, {name: {**look, "marker": ""} for name, look in looks.items()})
        yield figures.stem("output-distances", *key[:-1], scope(key[-1])), figure


def distance_table(tables: Tables) -> Iterator[tuple[str, Table]]:
    """Mean output distance of each method by group and sparsity."""
    if tables.distances.empty:
        return
    by = ["model", "pipeline", "criterion", "group", "target_sparsity"]
    means = over_seeds(tables.distances, [*by, "method"], "mean")
    methods = sorted(means["method"].unique())
    body = []
    for key, cells in means.groupby(by, dropna=False, sort=True):
        found = cells.set_index("method").reindex(methods)
        row = [*map(str, key[:3]), scope(key[3]), f"{100 * key[4]:g}"]
        body.append(row + [number(found.at[name, "mean"], found.at[name, "std"]) for name in methods])
    caption = "Mean l2 distance of the test images' logits to those of the network before pruning."
    yield "output-distances", Table(caption, [*by[:3], "pruned", "sparsity (%)", *methods], body, 4)


def landscape_figures(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """Accuracy over the plane through the original and two pruned networks, a panel a sparsity."""
    by = ["model", "pipeline", "seed", "criterion", "against", "method", "group"]
    for key, frame in tables.landscapes.groupby(by, dropna=False, sort=True):
        *place, against, method, group = key
        sparsities = sorted(frame["target_sparsity"].unique())
        titles = [f"{100 * sparsity:g} % sparsity" for sparsity in sparsities]
        figure, axes = figures.panels(titles, columns=3, share=False)
        names = {"original": "original", "against": str(against), "method": str(method)}
        looks: dict[str, figures.Look] = {
            name: {"color": "white", "marker": marker, "markeredgecolor": "black", "linestyle": "", "markersize": 5}
            for name, marker in zip(names.values(), "os^", strict=True)
        }
        levels = np.linspace(0, 100, 41)
        for axis, sparsity in zip(axes, sparsities, strict=True):
            points = frame[frame["target_sparsity"] == sparsity]
            heights = points[points["corner"].isna()].pivot_table(index="y", columns="x", values="accuracy")
            filled = axis.contourf(heights.columns, heights.index, heights, levels, cmap="cividis")
            for corner in points.dropna(subset="corner").itertuples():
                axis.plot(corner.x, corner.y, **looks[names[str(corner.corner)]])
            axis.grid(visible=False)
            axis.set_aspect("equal")
        figure.supxlabel("l2 distance in weight space", fontsize=8)
        figure.supylabel("l2 distance in weight space", fontsize=8)
        figures.colourbar(figure, filled, axes, "test accuracy (%)")
        figures.legend(figure, looks)
        yield figures.stem("landscape", *place, scope(group), method), figure


def distributions(tables: Tables) -> pd.DataFrame:
    """Intra-Fusion's rows, one group, no fine-tuning, with their distributions named as in the paper's Table 4."""
    rows = data_free_rows(tables)
    return rows.assign(distribution=rows["method"].map(DISTRIBUTIONS)).dropna(subset="distribution")


def distributions_table(tables: Tables) -> Iterator[tuple[str, Table]]:
    """Accuracy by source and target distribution, group and sparsity, with the Kruskal-Wallis p-value."""
    frame = distributions(tables)
    names = [name for name in DISTRIBUTIONS.values() if name in set(frame["distribution"])]
    if len(names) < 2:
        return
    by = ["model", "criterion", "group", "target_sparsity"]
    means = over_seeds(frame, [*by, "distribution"])
    tests = kruskal_wallis(frame, by, "distribution")
    theirs = published_distributions(frame, names)
    body = []
    for key, cells in means.groupby(by, sort=True):
        found = cells.set_index("distribution").reindex(names)
        row = [*map(str, key[:-1]), f"{100 * key[-1]:g}"]
        row += [number(found.at[name, "mean"], found.at[name, "std"]) for name in names]
        row.append(number(tests.loc[key]))
        if not theirs.empty:
            row += map(number, theirs.loc[key] if key in theirs.index else [float("nan")] * len(theirs.columns))
        body.append(row)
    caption = (
        "Test accuracy (%) of Intra-Fusion with uniform (u) and importance-informed (i) target (T) and source (S) "
        "distributions, and the p-value of a Kruskal-Wallis test between them over the seeds."
    )
    head = [*by[:-1], "sparsity (%)", *names, "p", *(f"{name}, published" for name in theirs.columns)]
    yield "distributions", Table(caption, head, body, 3)


def published_distributions(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The paper's accuracies and p-values for those of some rows that it prints, by model, criterion, group and
    sparsity."""
    long = published.distributions()
    long = long.assign(distribution=long["method"].map(DISTRIBUTIONS), criterion="l1", dataset="cifar10")
    ours = frame[["network", "dataset", "criterion", "model"]].drop_duplicates()
    joined = long.merge(ours, on=["network", "dataset", "criterion"]).astype({"target_sparsity": float})
    by = ["model", "criterion", "group", "target_sparsity"]
    if joined.empty:
        return pd.DataFrame()
    table = joined.pivot_table(index=by, columns="distribution", values="accuracy")[names]
    return table.join(published.kruskal().rename("p"), on=by[2:])


def distributions_figure(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """The Kruskal-Wallis p-values between distributions by group and sparsity, a panel a criterion."""
    frame = distributions(tables)
    for model, part in frame.groupby("model", sort=True):
        tests = kruskal_wallis(part, ["criterion", "group", "target_sparsity"], "distribution").dropna()
        if tests.empty:
            continue
        criteria = sorted(tests.index.unique("criterion"))
        figure, axes = figures.panels(criteria, columns=2)
        figure.set_figwidth(figures.TEXT_WIDTH)
        for axis, criterion in zip(axes, criteria, strict=True):
            table = tests.loc[criterion].unstack("group")
            shown = axis.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
            axis.set_xticks(range(len(table.columns)), [f"{group:g}" for group in table.columns])
            axis.set_yticks(range(len(table.index)), [f"{100 * sparsity:g}" for sparsity in table.index])
            axis.grid(visible=False)
            for (row, column), p in np.ndenumerate(table.to_numpy()):
                axis.text(
                    column,
                    row,
                    f"{p:.2f}".removeprefix("0"),
                    ha="center",
                    va="center",
                    size=6,
                    color="black" if p > 0.5 else "white",
                )
        figure.supxlabel("group", fontsize=8)
        figure.supylabel("neuron sparsity (%)", fontsize=8)
        figures.colourbar(figure, shown, axes, "p of Kruskal-Wallis")
        yield figures.stem("distributions", model), figure


def scope(group: float) -> str:
    """`group 3`, or `all groups` for null."""
    return "all groups" if pd.isna(group) else f"group {group:g}"
