"""Means over seeds and differences between methods."""

from collections.abc import Sequence

import pandas as pd


def over_seeds(frame: pd.DataFrame, by: Sequence[str], value: str = "accuracy") -> pd.DataFrame:
    """Mean, sample standard deviation (NaN for one) and number of rows of `value` for each combination of `by`."""
    grouped = frame.groupby(list(by), dropna=False, observed=True, sort=False)[value]
    return grouped.agg(mean="mean", std="std", n="count").reset_index()


def mean_by_method(frame: pd.DataFrame) -> pd.Series:
    """Mean accuracy of each method over the cells that all methods have, best first."""
    scoped = frame.assign(group=frame["group"].fillna(-1))
    cells = scoped.pivot_table(
        index=["model", "dataset", "pipeline", "seed", "criterion", "group", "target_sparsity"],
        columns="method",
        values="accuracy",
    ).dropna()
    return cells.mean().sort_values(ascending=False)
