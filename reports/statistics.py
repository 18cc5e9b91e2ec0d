"""Means over seeds and differences between methods."""

from collections.abc import Sequence

import pandas as pd
from scipy import stats


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


def kruskal_wallis(frame: pd.DataFrame, by: Sequence[str], between: str, value: str = "accuracy") -> pd.Series:
    """For each combination of `by`, the p-value of the hypothesis that `value` is alike in all groups of `between`.

    NaN where fewer than two groups have at least two rows each.
    """

    def p_value(rows: pd.DataFrame) -> float:
        samples = [part.to_numpy() for _, part in rows.groupby(between)[value] if len(part) > 1]
        if len(samples) < 2:
            return float("nan")
        alike = len({number for sample in samples for number in sample}) == 1
        return 1.0 if alike else float(stats.kruskal(*samples).pvalue)

    return frame.groupby(list(by), sort=True)[[between, value]].apply(p_value)
