"""Reading the tables of runs into pandas."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from orchestrator.storage.schema import COORDINATES, identity
from orchestrator.storage.store import Store


def load(
    run: str | Path | Sequence[str | Path], table: str = "evaluations", *, everything: bool = False
) -> pd.DataFrame:
    """One table of one or several runs.

    Args:
        run: folder or URI, or a list of them; with several, the column `run` tells them apart.
        table: `evaluations` (a row a measured model), or another one of `orchestrator.storage.schema.SCHEMAS`.
        everything: also rows of earlier settings that the run's present experiment does not ask for.

    Returns:
        A data frame with the columns of `orchestrator.storage.schema.SCHEMAS[table]`, no row twice. The coordinates of
        rows that the present experiment asks for are as it sees them: a stage that was on the way to a cell may be the
        end of one since the grid was extended. Times are in UTC, without a zone, so that `to_excel` writes them.

    Raises:
        FileNotFoundError: no run at this place, or none that has begun.
        ValueError: a file of the run is damaged or is no such table.
    """
    if isinstance(run, (str, Path)):
        return _one(run, table, everything)
    frames = [_one(each, table, everything).assign(run=str(each)) for each in run]
    return pd.concat(frames, ignore_index=True)


def without_zones(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows, their times in UTC without saying so, as spreadsheets want them."""
    zoned = frame.select_dtypes("datetimetz").columns
    return frame.assign(**{name: frame[name].dt.tz_convert("UTC").dt.tz_localize(None) for name in zoned})


def _one(run: str | Path, table: str, everything: bool) -> pd.DataFrame:
    store = Store(run)
    if not store.exists("results"):
        raise FileNotFoundError(f"'{run}' is not a run: it has no folder 'results'")
    frame = without_zones(store.read_table(table).to_pandas())
    if "cell" not in frame or table == "plan":
        return frame
    if frame.empty and store.names("results", "plan"):
        return frame  # a plan may be large
    names = [field.name for field in COORDINATES]
    plan = store.read_table("plan", names).to_pandas().set_index("cell")
    if plan.empty:
        raise FileNotFoundError(f"'{run}' is not a run: no stage is in its table 'plan'")
    planned = frame["cell"].isin(plan.index)
    if not everything:
        frame = frame[planned]
        if table != "epochs":
            names.remove("cell")
            order, measured = list(frame.columns), frame["neuron_sparsity"]
            frame = frame.drop(columns=names).join(plan, on="cell")[order]
            frame["neuron_sparsity"] = frame["neuron_sparsity"].fillna(measured)
    return frame.drop_duplicates(identity(table)).reset_index(drop=True)
