"""Pruned networks beside the original and beside each other: output distances, landscapes, distributions."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports import figures, published
from reports.names import in_order, network_name
from reports.results.selection import Tables, data_free_rows, variants
from reports.statistics import kruskal_wallis, one_a_seed, over_seeds
from reports.tables import Table, number

DISTRIBUTIONS = {method: name for name, method in published.MARGINALS.items()}
BINS = 40
UNIFORM: figures.Look = {"color": "black", "linestyle": "--", "linewidth": 0.8}


def mass_figures(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """How the mass of importance-informed distributions lies on the neurons of each group, heaviest first: a line a
    seed, a figure a network, pipeline and criterion."""
    by = ["model", "pipeline", "criterion", "variation"]
    several = tables.importances["pipeline"].nunique() > 1
    for (model, pipeline, criterion, variation), frame in tables.importances.groupby(by, sort=True):
        seeds = sorted(frame["seed"].unique())
        looks = figures.style([f"seed {seed}" for seed in seeds])
        every = {f"group {group:g}": frame[frame["group"] == group] for group in sorted(frame["group"].unique())}
        for part, panels in figures.pages(every):
            figure, axes = figures.panels(list(panels), columns=4, share=False)
            for axis, cells in zip(axes, panels.values(), strict=True):
                one_a_seed(cells, ["group"])
                for row in cells.itertuples():
                    draw_masses(axis, np.asarray(row.scores, dtype=float), looks[f"seed {row.seed}"])
            place = [network_name(str(model)), str(pipeline), str(criterion), *[str(variation)] * bool(variation)]
            figures.label(figure, "neuron, heaviest first", "mass (%)", ", ".join(place))
            for axis in axes:
                axis.set_ylim(bottom=0, auto=None)
            lines = {name: {**look, "marker": ""} for name, look in looks.items()}
            figures.legend(figure, {**lines, "uniform": UNIFORM})
            suffix = [*[pipeline] * several, *[variation] * bool(variation), *part]
            yield figures.stem("masses", model, criterion, *suffix), figure


def draw_masses(axis: Axes, scores: np.ndarray, look: figures.Look) -> None:
    """The share of each neuron in a group's importance, and the equal share; zero where there is no importance."""
    shares = 100 * np.sort(scores)[::-1] / (scores.sum() or 1)
    neurons = np.arange(1, len(scores) + 1)
    axis.step(neurons, shares, where="mid", color=look["color"], linestyle=look["linestyle"], linewidth=0.9)
    axis.axhline(100 / len(scores), **UNIFORM)
    axis.set_xlim(1, max(2, len(scores)))
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def distance_figures(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """Histograms of the output distances of each method with their means, a panel a sparsity, a figure a group."""
    rows = tables.distances.assign(variant=variants(tables.distances))
    for key, frame in rows.groupby(["model", "pipeline", "criterion", "group"], dropna=False, sort=True):
        one_a_seed(frame, ["variant", "target_sparsity"])
        sparsities = sorted(frame["target_sparsity"].unique())
        titles = [f"{100 * sparsity:g} % sparsity" for sparsity in sparsities]
        figure, axes = figures.panels(titles, columns=3, share=False)
        looks = figures.style(in_order(frame["variant"]))
        for axis, sparsity in zip(axes, sparsities, strict=True):
            cells = frame[frame["target_sparsity"] == sparsity]
            values = {name: np.concatenate(same["distances"].to_list()) for name, same in cells.groupby("variant")}
            edges = np.linspace(0, max(1e-9, *(np.quantile(each, 0.995) for each in values.values())), BINS).tolist()
            for name, each in values.items():
                colour, dashes = looks[str(name)]["color"], looks[str(name)]["linestyle"]
                axis.hist(
                    each, edges, histtype="step", color=colour, linestyle=dashes, weights=[100 / len(each)] * len(each)
                )
                axis.axvline(each.mean(), color=colour, linestyle=dashes, linewidth=0.8)
            axis.set_xlim(0, edges[-1])
        seeds = frame["seed"].nunique()
        note = f"images of {seeds} seed{'s' * (seeds != 1)} together; vertical lines: means"
        figures.label(figure, "l2 distance of the outputs to the original's", "test images (%)", note)
        figures.legend(figure, {name: {**look, "marker": ""} for name, look in looks.items()})
        yield figures.stem("output-distances", *key[:-1], scope(key[-1])), figure


def distance_table(tables: Tables) -> Iterator[tuple[str, Table]]:
    """Mean output distance of each method by group and sparsity."""
    if tables.distances.empty:
        return
    by = ["model", "pipeline", "criterion", "group", "target_sparsity"]
    rows = tables.distances.assign(variant=variants(tables.distances))
    means = over_seeds(rows, [*by, "variant"], "mean")
    methods = in_order(means["variant"])
    body = []
    for key, cells in means.groupby(by, dropna=False, sort=True):
        found = cells.set_index("variant").reindex(methods)
        row = [*map(str, key[:3]), scope(key[3]), f"{100 * key[4]:g}"]
        body.append(row + [number(*found.loc[name, ["mean", "std", "n"]]) for name in methods])
    caption = "Mean l2 distance of the test images' logits to those of the network before pruning."
    yield "output-distances", Table(caption, [*by[:3], "pruned", "sparsity (%)", *methods], body, 4, 5)


def landscape_figures(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """Accuracy over the plane through the original and two pruned networks, a panel a sparsity."""
    by = ["model", "pipeline", "seed", "criterion", "note", "against", "method", "group"]
    for key, frame in tables.landscapes.groupby(by, dropna=False, sort=True):
        *place, note, against, method, group = key
        place += [note] * bool(note)
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
            heights = points[points["corner"].isna()].pivot(index="y", columns="x", values="accuracy")
            filled = axis.contourf(heights.columns, heights.index, heights, levels, cmap="cividis")
            for corner in points.dropna(subset="corner").itertuples():
                axis.plot(corner.x, corner.y, **looks[names[str(corner.corner)]])
            axis.grid(visible=False)
            axis.set_aspect("equal")
        figures.label(figure, "l2 distance in weight space", "l2 distance in weight space", note)
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
    by = ["model", "criterion", *["note"] * bool((frame["note"] != "").any()), "group", "target_sparsity"]
    means = over_seeds(frame, [*by, "distribution"])
    tests = kruskal_wallis(frame, by, "distribution")
    theirs = published_distributions(frame, names)
    body = []
    for key, cells in means.groupby(by, sort=True):
        found = cells.set_index("distribution").reindex(names)
        row = [*map(str, key[:-1]), f"{100 * key[-1]:g}"]
        row += [number(*found.loc[name, ["mean", "std", "n"]]) for name in names]
        row.append(number(tests.loc[key]))
        if not theirs.empty:
            point = key[:2] + key[-2:]
            row += map(number, theirs.loc[point] if point in theirs.index else [float("nan")] * len(theirs.columns))
        body.append(row)
    caption = (
        "Test accuracy (%) of Intra-Fusion with uniform (u) and importance-informed (i) target (T) and source (S) "
        "distributions, and the p-value of a Kruskal-Wallis test between them over the seeds, not corrected for the "
        "number of tests."
    )
    keys = ["settings" if column == "note" else column for column in by[:-1]]
    head = [*keys, "sparsity (%)", *names, "p", *(f"published, {name}" for name in theirs.columns)]
    yield "distributions", Table(caption, head, body, len(keys) - 1, len(by), names)


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
    for (model, note), part in frame.groupby(["model", "note"], sort=True):
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
        seeds = part["seed"].nunique()
        note_below = f"{seeds} seeds; p-values are not corrected for the number of tests"
        figure.supxlabel(f"group\n{note_below}", fontsize=figures.FONT_SIZE)
        figure.supylabel("neuron sparsity (%)", fontsize=figures.FONT_SIZE)
        figures.colourbar(figure, shown, axes, "p of Kruskal-Wallis")
        yield figures.stem("distributions", model, *[note] * bool(note)), figure


def scope(group: float) -> str:
    """`group 3`, or `all groups` for null."""
    return "all groups" if pd.isna(group) else f"group {group:g}"
