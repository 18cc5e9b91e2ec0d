"""Means over seeds, average ranks, paired differences with intervals, and the test of Kruskal and Wallis."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

CELL = ["model", "dataset", "pipeline", "criterion", "group", "target_sparsity"]
CONFIDENCE = 0.95


def over_seeds(frame: pd.DataFrame, by: Sequence[str], value: str = "accuracy") -> pd.DataFrame:
    """Mean, sample standard deviation (NaN for one) and number of rows of `value` for each combination of `by`."""
    grouped = frame.groupby(list(by), dropna=False, observed=True, sort=False)[value]
    return grouped.agg(mean="mean", std="std", n="count").reset_index()


def by_method(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, a row a cell and seed (index `CELL` and seed), a column a method; only what all methods have."""
    scoped = frame.assign(group=frame["group"].fillna(-1))
    return scoped.pivot_table(index=[*CELL, "seed"], columns="method", values="accuracy").dropna()


def average_ranks(accuracies: pd.DataFrame) -> pd.Series:
    """Mean rank of each method over the cells, 1 the best, ties averaged; seeds are averaged before.

    Args:
        accuracies: as `by_method` gives them.
    """
    return accuracies.groupby(CELL).mean().rank(axis=1, ascending=False).mean()


def paired_differences(accuracies: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Each method less the reference, mean over the cells, with Student's interval over the seeds.

    Args:
        accuracies: as `by_method` gives them.
        reference: a column.

    Returns:
        A row a method: mean, low and high (points; both NaN for one seed), n (seeds).
    """
    differences = accuracies.sub(accuracies[reference], axis=0).groupby("seed").mean()
    n = len(differences)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std() / np.sqrt(n)
    mean = differences.mean()
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half, "n": n})


def kruskal_wallis(frame: pd.DataFrame, by: Sequence[str], between: str, value: str = "accuracy") -> pd.Series:
    """For each combination of `by`, the p-value of the hypothesis that `value` is alike in all groups of `between`.

    Groups of one row are left out; NaN where fewer than two remain, 1 where all values are equal.
    """
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
