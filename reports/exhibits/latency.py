"""What to say of measured times besides the times: their intervals, and what else the machine did meanwhile."""

from collections.abc import Sequence

import pandas as pd

INTERVAL = ["latency_1_low", "latency_1_high"]
BUSY_CORES = 0.5  # of other work, from which on a measured time is no network's alone


def mean_intervals(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The mean ends `low` and `high` of the intervals of the time of one image, for each combination of `by`, in the
    order in which these come."""
    ends = rows.groupby(list(by), dropna=False, observed=True, sort=False)[INTERVAL].mean()
    return ends.set_axis(["low", "high"], axis=1).reset_index(drop=True)


def measured_beside(rows: pd.DataFrame) -> str:
    """What else kept the CPU or the GPU busy while the times of these rows were measured; empty for nothing, and where
    that is not known."""
    cores, processes = rows["latency_others"].median(), rows["latency_others_gpu"].max()
    beside = [f"other work kept {cores:.1f} CPU cores busy"] * bool(cores > BUSY_CORES)
    if processes > 0:
        beside.append(f"up to {processes:g} other {'process' if processes == 1 else 'processes'} used the GPU")
    return f"measured while {' and '.join(beside)}" if beside else ""
