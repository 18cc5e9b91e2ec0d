"""Figures and tables of data-free grids: of single groups, and of whole networks."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from reports import figures
from reports.exhibits.exhibit import Item
from reports.names import in_order, natural, network_name
from reports.published import curves
from reports.results.selection import Tables, baselines, data_free_rows, variants, whole_network_rows
from reports.statistics import balanced, over_seeds, side_by_side
from reports.tables import Table, number, signed

MOST_LINES = 8  # in a panel; with more, each criterion has a figure of its own
GRID = ["model", "pipeline", "criterion", "note", "target_sparsity"]
HEADS = {"note": "settings", "target_sparsity": "sparsity (%)"}


def data_free_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against neuron sparsity, a panel a group, a figure a model and setting of the grid such as repair."""
    rows = data_free_rows(tables)
    names = variants(rows, "pipeline", of="plain")
    if rows["criterion"].nunique() > 1 and (tables.published or names.nunique() > MOST_LINES):
        for criterion in rows["criterion"].unique():
            yield from data_free_figures(tables, rows[rows["criterion"] == criterion], criterion)
        return
    yield from data_free_figures(tables, rows)


def data_free_figures(tables: Tables, rows: pd.DataFrame, *suffix: str) -> Iterator[Item]:
    """One figure per model and variation of the grid; `suffix` ends their names."""
    drawn = rows.assign(variant=variants(rows, "pipeline", of="plain"))
    if tables.published:
        theirs = curves(rows)
        theirs = theirs.assign(target_sparsity=theirs["neuron_sparsity"], seed=-1, variation="")
        drawn = pd.concat([drawn, theirs.assign(variant=theirs["method"] + figures.PUBLISHED)])
    for (model, variation), frame in drawn.groupby(["model", "variation"], sort=True):
        groups = {f"group {group}": frame[frame["group"] == group] for group in sorted(frame["group"].unique())}
        start = baselines(tables.evaluations, str(model))
        for part, panels in figures.pages(groups):
            name = figures.stem("data-free", model, *[variation] * bool(variation), *suffix, *part)
            starts = dict.fromkeys(panels, start)
            yield name, sparsity_figure(panels, starts, "neuron sparsity of the group (%)")


def whole_network_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against neuron sparsity when all groups are pruned, a panel a model and setting of the grid."""
    rows = whole_network_rows(tables)
    if rows.empty:
        return
    frame = rows.assign(variant=variants(rows, "pipeline", of="plain"))
    every, starts = {}, {}
    for (model, variation), part in frame.groupby(["model", "variation"], sort=True):
        title = ", ".join([network_name(str(model)), *[str(variation)] * bool(variation)])
        every[title], starts[title] = part, baselines(tables.evaluations, str(model))
    columns = 3 if frame["variation"].nunique() == 3 else 2
    for part_of, panels in figures.pages(every):
        figure = sparsity_figure(panels, starts, "neuron sparsity of all groups (%)", columns)
        yield figures.stem("whole-network", *part_of), figure


def sparsity_figure(
    panels: Mapping[str, pd.DataFrame], starts: Mapping[str, pd.DataFrame], label: str, columns: int = 4
) -> Figure:
    """Mean accuracy against neuron sparsity by variant, a panel a title; whole-data begins at the panel's start.

    A point is of the cells with one sparsity asked for, and stands at the mean of the sparsities they reached.
    """
    figure, axes = figures.panels(list(panels), columns)
    looks = figures.style(in_order(name for frame in panels.values() for name in frame["variant"]))
    shown = []
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        start = over_seeds(starts[title], ["target_sparsity"], x="neuron_sparsity", cells=True)
        means = over_seeds(frame, ["pipeline", "variant", "target_sparsity"], x="neuron_sparsity", cells=True)
        shown.append(means[~means["variant"].str.endswith(figures.PUBLISHED)])
        for (pipeline, variant), points in means.groupby(["pipeline", "variant"]):
            if pipeline == "whole-data" and points["neuron_sparsity"].min() > 0:
                points = pd.concat([start, points])
            figures.curve(axis, points, "neuron_sparsity", looks[variant], name=str(variant))
    figures.label(figure, label, note=figures.repetitions(*shown))
    figures.legend(figure, looks)
    return figure


def data_free_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by group and sparsity, and the gain of Intra-Fusion over conventional pruning."""
    caption = "Test accuracy (%) after pruning one group, without fine-tuning."
    yield from methods_table("data-free", caption, data_free_rows(tables), "group", gain=True)


def data_free_mean_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by sparsity, mean over the groups."""
    caption = (
        "Test accuracy (%) after pruning one group, without fine-tuning, mean over the groups and seeds that all "
        "methods of a row have."
    )
    yield from methods_table("data-free-mean", caption, over_groups(data_free_rows(tables)))


def over_groups(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean accuracy of each point of the grid, method and seed over the groups that all methods and seeds have."""
    means = []
    for key, part in rows.groupby(GRID, sort=False):
        accuracies = balanced(side_by_side(part, ["group"], "method"))
        long = accuracies.groupby("seed").mean().stack().rename("accuracy").reset_index()
        means.append(long.assign(**dict(zip(GRID, key, strict=True))))
    return pd.concat(means, ignore_index=True) if means else rows[:0]


def whole_network_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by sparsity when all groups are pruned."""
    caption = "Test accuracy (%) after pruning all groups, without fine-tuning."
    yield from methods_table("whole-network", caption, whole_network_rows(tables))


def methods_table(
    name: str, caption: str, rows: pd.DataFrame, *further: str, gain: bool = False, weights: bool = False
) -> Iterator[Item]:
    """A row a point of the grid, with its sparsity of weights if that is wanted, a column a method."""
    if not rows.empty:
        yield name, compared_table(caption, rows, [*GRID[:4], *further, GRID[4]], "method", gain=gain, weights=weights)


def compared_table(
    caption: str, rows: pd.DataFrame, by: Sequence[str], across: str, *, gain: bool = False, weights: bool = False
) -> Table:
    """Mean accuracies over seeds, a row a combination of `by`, a column a value of `across`.

    Args:
        by: columns; the last one is the sparsity asked for, and notes are left out where there are none.
        gain: whether the last column is Intra-Fusion's gain, if there are both methods.
        weights: whether the mean sparsity of weights stands beside the one asked for.
    """
    by = [column for column in by if column != "note" or (rows["note"] != "").any()]
    means = over_seeds(rows, [*by, across])
    values = means.pivot(index=by, columns=across, values="mean").sort_index(key=natural_level)
    columns = in_order(values.columns)
    texts = {
        (*key, name): number(*measured)
        for *key, name, measured in zip(
            *(means[column] for column in (*by, across)),
            means[["mean", "std", "n"]].itertuples(index=False, name=None),
            strict=True,
        )
    }
    gain = gain and {"conventional", "intra-fusion"} <= {*columns}
    gains = [*map(signed, values["intra-fusion"] - values["conventional"])] if gain else []
    shares = rows.groupby(by, dropna=False)["weight_sparsity"].mean() if weights else pd.Series(dtype=float)
    body = []
    for place, key in enumerate(values.index):
        reached = [f"{100 * shares.loc[key]:.1f}"] if weights else []
        cells = [texts.get((*key, name), "–") for name in columns]
        body.append([*map(str, key[:-1]), f"{100 * key[-1]:g}", *reached, *cells, *gains[place : place + 1]])
    keys = [*(HEADS.get(column, column) for column in by), *["weight sparsity (%)"] * weights]
    words = sum(column in ("model", "pipeline", "criterion", "method", "note") for column in by)
    head = [*keys, *columns, *["Intra-Fusion gain"] * gain]
    return Table(caption, head, body, words, len(keys), tuple(columns))


def natural_level(level: pd.Index) -> pd.Index:
    """Sorts names by the numbers in them, numbers by value."""
    return level if pd.api.types.is_numeric_dtype(level) else level.map(natural)
