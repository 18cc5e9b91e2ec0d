"""How methods compare over all cells: average ranks, differences from conventional pruning, and what they support."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.exhibits.exhibit import Item
from reports.names import network_name
from reports.results.selection import Tables, final_rows
from reports.statistics import CELL, average_ranks, balanced, by_method, holm, kruskal_wallis, paired_differences
from reports.tables import Table, number, signed

REFERENCE = "conventional"
LEVEL = 0.05  # of the test behind a verdict


class Comparison(NamedTuple):
    """The accuracies of all methods on the same cells and seeds.

    Attributes:
        model: name of the network.
        scope: what was pruned and whether it was fine-tuned, as `scopes` says it.
        accuracies: as `statistics.by_method` gives them, balanced.
    """

    model: str
    scope: str
    accuracies: pd.DataFrame


def comparisons(rows: pd.DataFrame) -> Iterator[Comparison]:
    """What can be compared, apart for each model and scope.

    The summary and the table `ranks` of a page are of these rows, also while a run goes on.

    Args:
        rows: final evaluations of pruned models.
    """
    for (model, scope), part in rows.assign(scope=scopes(rows)).groupby(["model", "scope"], sort=False):
        accuracies = balanced(by_method(part))
        if not accuracies.empty:
            yield Comparison(str(model), str(scope), accuracies)


def ranks_tables(tables: Tables) -> Iterator[Item]:
    """Methods ranked over all cells, with intervals and tests where there are several seeds."""
    rows = final_rows(tables)
    yield from ranked(rows[rows["method"].notna()])


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods ranked, apart for each model and scope.

    Args:
        rows: final evaluations of pruned models.

    Returns:
        Columns model, scope, method, rank, accuracy (percent), mean, low, high and p (points, minus conventional
        pruning, as `statistics.paired_differences` gives them; NaN without it), n (seeds) and cells; best rank first.
        Where no cell has all methods, no rows.
    """
    found = []
    for model, scope, accuracies in comparisons(rows):
        if accuracies.shape[1] < 2:
            continue
        columns = {"rank": average_ranks(accuracies), "accuracy": accuracies.mean()}
        reference = REFERENCE if REFERENCE in accuracies else accuracies.columns[0]
        each = pd.DataFrame(columns).join(paired_differences(accuracies, reference))
        if reference != REFERENCE:
            each[["mean", "low", "high", "p"]] = np.nan
        cells = accuracies.index.droplevel("seed").nunique()
        found.append(
            each.sort_values("rank").rename_axis("method").reset_index().assign(model=model, scope=scope, cells=cells)
        )
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def scopes(rows: pd.DataFrame) -> pd.Series:
    """What was pruned of each network, whether it was trained again, and what tells it from others (`steps=4`)."""
    groups = rows["group"].isna().map({True: "all groups", False: "one group"})
    tuned = groups + (rows["stage"] == "fine-tuned").map({True: ", fine-tuned", False: ""})
    return tuned.where(rows["note"] == "", tuned + ", " + rows["note"])


def ranked(rows: pd.DataFrame) -> Iterator[tuple[str, Table]]:
    """Average ranks with differences, and the test of each cell where there are several seeds."""
    each = compared(rows)
    if not each.empty:
        yield "ranks", ranks_table(each)
    if not rows.empty:
        scoped = rows.assign(pruned=scopes(rows), group=rows["group"].fillna(-1))
        tests = kruskal_wallis(scoped, ["pruned", *CELL], "method").dropna()
        if not tests.empty:
            yield "kruskal-wallis", kruskal_table(tests)


def ranks_table(each: pd.DataFrame) -> Table:
    """A row a model, scope and method."""
    body = []
    for row in each.itertuples():
        difference = "–" if row.method == REFERENCE else signed(row.mean)
        sure = number(row.p, digits=3)
        numbers = [number(row.rank), number(row.accuracy), difference, interval(row.low, row.high), sure]
        body.append([row.model, row.scope, row.method, *numbers, str(row.cells), str(row.n)])
    head = [
        "model",
        "pruned",
        "method",
        "average rank",
        "accuracy",
        "minus conventional",
        "95 % interval",
        "p, corrected",
        "cells",
        "seeds",
    ]
    caption = (
        "Methods over the cells and seeds that all of them have: average rank (1 is best), mean test accuracy (%), and "
        "its difference from conventional pruning in points, paired by cell, with Student's interval over seeds, and p "
        "of his paired test that there is none, corrected by Holm's procedure for the number of methods beside it."
    )
    return Table(caption, head, body, 3)


def interval(low: float, high: float) -> str:
    """`+1.20 to +3.40`; a dash without one."""
    return f"{signed(low)} to {signed(high)}" if high > low else "–"


def kruskal_table(tests: pd.Series) -> Table:
    """A row a cell; p also corrected for the number of cells of its network."""
    corrected = tests.groupby("model", group_keys=False).apply(holm)
    tested = pd.DataFrame({"p": tests, "corrected": corrected}).reset_index()
    columns = {
        **{name: tested[name] for name in ("model", "pruned", "pipeline", "criterion")},
        "group": tested["group"].map(lambda group: "all" if group < 0 else f"{group:g}"),
        "sparsity (%)": (100 * tested["target_sparsity"]).map("{:g}".format),
        "p": tested["p"].map(lambda p: number(p, digits=3)),
        "p, corrected": tested["corrected"].map(lambda p: number(p, digits=3)),
    }
    caption = (
        "p of the test of Kruskal and Wallis, that all methods' accuracies over seeds come from one distribution: of "
        "each cell alone, and corrected for the number of cells of its model by Holm's procedure."
    )
    return Table(caption, list(columns), list(zip(*columns.values(), strict=True)), 4)


def sentences(rows: pd.DataFrame) -> list[str]:
    """What the comparison of methods supports, in plain words."""
    each = compared(rows)
    if each.empty or each["mean"].isna().all():
        return []
    if (each["n"] < 2).all():
        return [
            "There is one seed, so no interval can be given: differences between methods may be this model's alone."
        ]
    several = each[(each["n"] > 1) & each["mean"].notna()]
    places = several["model"].map(network_name) + ", " + several["scope"]
    return [verdict(str(place), part) for place, part in several.groupby(places, sort=False)]


def verdict(where: str, each: pd.DataFrame) -> str:
    """Which methods differ from conventional pruning by a test that is corrected for their number."""
    others = each[each["method"] != REFERENCE]
    sure = others["p"] < LEVEL
    named = {
        "above": others.loc[sure & (others["mean"] > 0), "method"],
        "below": others.loc[sure & (others["mean"] < 0), "method"],
        "not surely different from": others.loc[~sure, "method"],
    }
    found = [
        f"{listed(methods)} {'is' if len(methods) == 1 else 'are'} {how}"
        for how, methods in named.items()
        if len(methods)
    ]
    count = f", corrected for {len(others)} comparisons" if len(others) > 1 else ""
    seeds = each["n"].iloc[0]
    return f"{where}: {'; '.join(found)} conventional pruning (paired test over {seeds} seeds at 5 %{count})."


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, in quotes where they hold commas."""
    return ", ".join(f"“{name}”" if "," in name else name for name in names)
