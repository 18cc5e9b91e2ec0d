"""Reading the tables of runs into pandas."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from orchestrator.storage.schema import COORDINATES, SCHEMAS, identity
from orchestrator.storage.store import Store

NAMES = [column.name for column in COORDINATES]


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


def tables_in(runs: Sequence[str], tables: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Several tables of some runs, as `load` gives them for a list, in the memory that a million rows may take.

    The column `settings`, a long text that many stages share, is left out of all but the table `plan`, where it is
    categorical.
    """
    found: dict[str, list[pd.DataFrame]] = {table: [] for table in tables}
    for run in runs:
        store = store_of(run)
        plan = store.read_table("plan", coded=["settings"]).to_pandas()
        coordinates = plan[[name for name in NAMES if name != "settings"]].set_index("cell")
        for table in found:
            frame = plan
            if table != "plan":
                columns = [name for name in SCHEMAS[table].names if name != "settings"]
                frame = without_zones(store.read_table(table, columns).to_pandas())
                frame = as_planned(frame, table, coordinates, run)
            found[table].append(frame.assign(run=run))
    return {table: pd.concat(frames, ignore_index=True) for table, frames in found.items()}


def store_of(run: str | Path) -> Store:
    """The files of a run that has begun.

    Raises:
        FileNotFoundError: there is none.
    """
    store = Store(run)
    if not store.exists("results"):
        raise FileNotFoundError(f"'{run}' is not a run: it has no folder 'results'")
    return store


def _one(run: str | Path, table: str, everything: bool) -> pd.DataFrame:
    store = store_of(run)
    frame = without_zones(store.read_table(table).to_pandas())
    if "cell" not in frame or table == "plan":
        return frame
    if frame.empty and store.names("results", "plan"):
        return frame  # a plan may be large
    plan = store.read_table("plan", NAMES).to_pandas().set_index("cell")
    return as_planned(frame, table, plan, run, everything)


def as_planned(
    frame: pd.DataFrame, table: str, plan: pd.DataFrame, run: str | Path, everything: bool = False
) -> pd.DataFrame:
    """The rows that the present experiment asks for, no row twice, with the coordinates that it gives them.

    Args:
        frame: rows of the table.
        plan: the coordinates of the stages, index the cells; those that `frame` has.
        everything: also rows that it does not ask for, all as they are.
    """
    if plan.empty:
        raise FileNotFoundError(f"'{run}' is not a run: no stage is in its table 'plan'")
    if not everything:
        frame = frame[frame["cell"].isin(plan.index)]
        if table != "epochs":
            order, measured = list(frame.columns), frame["neuron_sparsity"]
            frame = frame.drop(columns=list(plan)).join(plan, on="cell")[order]
            frame["neuron_sparsity"] = frame["neuron_sparsity"].fillna(measured)
    return frame.drop_duplicates(identity(table)).reset_index(drop=True)
