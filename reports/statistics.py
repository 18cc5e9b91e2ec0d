"""Means over seeds, average ranks, paired differences with intervals, and the test of Kruskal and Wallis."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

CELL = ["model", "dataset", "pipeline", "criterion", "note", "group", "target_sparsity"]
CONFIDENCE = 0.95


class AmbiguousRows(ValueError):
    """Several results stand where there should be one a seed: an average would pass them off as repetitions."""


def one_a_seed(frame: pd.DataFrame, by: Sequence[str]) -> None:
    """Make sure that rows which share `by` are repetitions: no two of them have one seed.

    Raises:
        AmbiguousRows: two have; the message names where they stand.
    """
    columns = [*by, "seed"]
    twice = frame[frame.duplicated(columns, keep=False)]
    if twice.empty:
        return
    place = twice.iloc[0]
    same = twice[(twice[columns].eq(place[columns]) | (twice[columns].isna() & place[columns].isna())).all(axis=1)]
    cells = f" (cells {', '.join(map(str, same['cell'].unique()))})" if "cell" in same else ""
    where = ", ".join(f"{name} {place[name]}" for name in columns if pd.notna(place[name]) and place[name] != "")
    raise AmbiguousRows(
        f"{len(same)} results{cells} share {where}, so that nothing tells them apart: report fewer runs at once, or "
        f"only one of the grids"
    )


def over_seeds(
    frame: pd.DataFrame, by: Sequence[str], value: str = "accuracy", x: str = "", cells: bool = False
) -> pd.DataFrame:
    """Mean, sample standard deviation (NaN for one) and number of seeds of `value` for each combination of `by`.

    Args:
        frame: a row a combination and seed.
        by: columns.
        value: the column that is averaged.
        x: a column whose mean is given too, such as the sparsity that was reached where `by` has the one asked for.
        cells: whether the keys behind each mean are given too, as tuples; what is published has none.

    Returns:
        Columns `by`, mean, std, n, `x` and `cells`.

    Raises:
        AmbiguousRows: a combination has several rows of a seed.
    """
    one_a_seed(frame, by)
    grouped = frame.groupby(list(by), dropna=False, observed=True, sort=False)
    found = grouped[value].agg(mean="mean", std="std", n="count")
    if x:
        found = found.assign(**{x: grouped[x].mean()})
    if cells:
        numbers = grouped.ngroup().to_numpy()  # in the order in which `agg` gives the groups
        keys = frame["cell"].to_numpy()[np.argsort(numbers, kind="stable")]
        parts = np.split(keys, np.cumsum(np.bincount(numbers))[:-1]) if len(frame) else []
        found = found.assign(cells=[tuple(key for key in part if isinstance(key, str)) for part in parts])
    return found.reset_index()


def by_method(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, a row a cell and seed (index `CELL` and seed), a column a method; only what all methods have."""
    return side_by_side(frame.assign(group=frame["group"].fillna(-1)), CELL, "method")


def side_by_side(frame: pd.DataFrame, by: Sequence[str], across: str) -> pd.DataFrame:
    """Accuracy, a row a combination of `by` and seed, a column a value of `across`; only rows that are full.

    Raises:
        AmbiguousRows: a place has several rows.
    """
    one_a_seed(frame, [*by, across])
    return frame.set_index([*by, "seed", across])["accuracy"].unstack().dropna()


def balanced(accuracies: pd.DataFrame) -> pd.DataFrame:
    """The seeds with the most cells, and the cells that all of them have.

    While a run goes on, the mean of one seed would otherwise be over other cells than that of the next. Whatever a
    report says in one number of many cells is of these rows.

    Args:
        accuracies: as `side_by_side` gives them.
    """
    cells = accuracies.groupby("seed").size()
    full = accuracies[accuracies.index.get_level_values("seed").isin(cells.index[cells == cells.max()])]
    by = [name for name in accuracies.index.names if name != "seed"]
    seeds = full.groupby(by, dropna=False)[list(full.columns[:1])].transform("size")
    return full[seeds == seeds.max()]


def average_ranks(accuracies: pd.DataFrame) -> pd.Series:
    """Mean rank of each method over the cells, 1 the best, ties averaged; seeds are averaged before.

    Args:
        accuracies: as `by_method` gives them.
    """
    return accuracies.groupby(CELL).mean().rank(axis=1, ascending=False).mean()


def paired_differences(accuracies: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Each method less the reference, mean over the cells, with Student's interval over the seeds and his paired test.

    Args:
        accuracies: as `by_method` gives them.
        reference: a column.

    Returns:
        A row a method: mean, low and high (points; both NaN for one seed), p (two-sided, of no difference, corrected
        for the number of methods by Holm's procedure; NaN for one seed and for the reference), n (seeds).
    """
    differences = accuracies.sub(accuracies[reference], axis=0).groupby("seed").mean()
    n = len(differences)
    mean, error = differences.mean(), differences.std() / np.sqrt(n)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * error
    away = mean.abs().div(error).where((error > 0) | (mean == 0), np.inf)  # equal differences in all seeds are sure
    p = pd.Series(2 * stats.t.sf(away, n - 1), mean.index).mask(mean.index == reference)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "p": holm(p), "n": n})


def kruskal_wallis(frame: pd.DataFrame, by: Sequence[str], between: str, value: str = "accuracy") -> pd.Series:
    """For each combination of `by`, the p-value of the hypothesis that `value` is alike in all groups of `between`.

    Groups of one row are left out; NaN where fewer than two remain, 1 where all values are equal.

    Raises:
        AmbiguousRows: a group has several rows of a seed.
    """
    one_a_seed(frame, [*by, between])
    numbered = frame.assign(repeat=frame.groupby([*by, between]).cumcount())
    table = numbered.pivot(index=list(by), columns=[between, "repeat"], values=value).sort_index()
    table = table.reindex(columns=pd.MultiIndex.from_product(table.columns.levels))
    cells = table.to_numpy().reshape(len(table), len(table.columns.levels[0]), -1)
    enough = (~np.isnan(cells)).sum(axis=2) > 1
    p = np.full(len(cells), np.nan)
    for groups in np.unique(enough[enough.sum(axis=1) > 1], axis=0):
        here = (enough == groups).all(axis=1)
        samples = cells[here][:, groups]
        alike = np.nanmax(samples, axis=(1, 2)) == np.nanmin(samples, axis=(1, 2))
        p[here] = 1.0
        if not alike.all():
            varied = samples[~alike].swapaxes(0, 1)
            p[np.flatnonzero(here)[~alike]] = stats.kruskal(*varied, axis=1, nan_policy="omit").pvalue
    return pd.Series(p, table.index)


def holm(p: pd.Series) -> pd.Series:
    """p-values corrected for their number by Holm's step-down procedure (1979); NaN is no test and stays."""
    ordered = p.dropna().sort_values()
    factors = np.arange(len(ordered), 0, -1)
    corrected = pd.Series(np.minimum(1, np.maximum.accumulate(ordered.to_numpy() * factors)), ordered.index)
    return corrected.reindex(p.index)
