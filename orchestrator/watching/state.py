"""What the page of a run shows, renewed by reading only what is new."""

import math
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from orchestrator.running.lease import STALE_SECONDS, Holder, read_holder
from orchestrator.running.progress import duration, frequency
from orchestrator.storage.following import NewRows
from orchestrator.storage.store import Store, folder_name
from orchestrator.tracking.interface import title_of
from orchestrator.worker.training_progress import trainings
from workloads.messages import counted, message

MOST_CURVES, MOST_PANELS, MOST_LINES, MOST_FAILURES = 12, 12, 12, 50
NAMES = ["cell", "model", "training_data", "pipeline", "criterion", "method", "group", "groups", "target_sparsity"]


class Watched:
    """A run as its page shows it.

    Raises:
        FileNotFoundError: there is no run, or none that has begun.
    """

    def __init__(self, run: str):
        self.store = Store(run)
        if not self.store.exists("results"):
            raise FileNotFoundError(f"'{run}' is not a run: it has no folder 'results'")
        self.plan_written: int | None = None
        self.heartbeat = Heartbeat(self.store)
        self.read_plan()
        if not self.kinds:
            raise FileNotFoundError(f"'{run}' is not a run: no stage is in its table 'plan'")

    def read_plan(self) -> None:
        """Take in the stages where they are new; what was counted of an earlier plan is counted again."""
        place = self.store.path("results", "plan", "plan.parquet")
        written = self.store.files.get_file_info(place).mtime_ns
        if written == self.plan_written and written is not None:
            return
        plan = self.store.read_table("plan", ["cell", "kind", "final"])
        cells, kinds, final = (plan[name].to_pylist() for name in ("cell", "kind", "final"))
        self.kinds = dict(zip(cells, kinds, strict=True))
        self.planned = Counter(kinds)
        self.final = {cell for cell, ends in zip(cells, final, strict=True) if ends}
        self.done: set[str] = set()
        self.work, self.worked = Counter[str](), Counter[str]()
        self.ended: list[datetime] = []
        self.curves = Curves()
        self.accuracies = Accuracies(self.final)
        self.failures = Failures(self.store)
        self.timings = NewRows(self.store, "timings", ["cell", "kind", "seconds", "finished"])
        self.epochs = NewRows(self.store, "epochs", [*NAMES, "seed", "step", "epoch", "train_loss", "test_accuracy"])
        self.evaluations = NewRows(self.store, "evaluations", [*NAMES, "stage", "accuracy"])
        self.plan_written = written

    def state(self) -> dict[str, Any]:
        """All that the page shows, in the types of JSON.

        Raises:
            OSError, ValueError, pa.ArrowException: the run is gone, or a file of it cannot be read.
        """
        self.store.check_there()
        self.read_plan()
        for part in self.evaluations.parts():
            rows = part.to_pandas()
            self.accuracies.add(rows[within(rows, self.kinds)])
        for part in self.epochs.parts():
            self.curves.add(row for row in part.to_pylist() if row["cell"] in self.kinds)
        for part in self.timings.parts():
            self.count(part.to_pylist())
        under_way = {key: reached for key, reached in trainings(self.store).items() if key not in self.done}
        driver = self.heartbeat.driver()
        failures = self.failures.present(self.kinds, self.done)
        failed = Counter(self.kinds[row["cell"]] for row in failures)
        running = Counter(driver.running if driver else {})
        counts = [self.counts(kind, failed[kind], running[kind]) for kind in self.planned]
        return {
            "name": folder_name(self.store.uri),
            "place": self.store.uri,
            "said": self.sentences(driver, counts),
            "kinds": counts,
            "trainings": [
                {"cell": key, "epoch": reached.epoch, "epochs": reached.epochs} for key, reached in under_way.items()
            ],
            "curves": self.curves.shown({key: reached.history for key, reached in under_way.items()}),
            "figures": self.accuracies.panels(),
            "failures": grouped(failures),
        }

    def count(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count stages that are done."""
        for row in rows:
            if row["cell"] in self.kinds and row["cell"] not in self.done:
                self.done.add(row["cell"])
                self.work[row["kind"]] += row["seconds"]
                self.worked[row["kind"]] += 1
                self.ended.append(row["finished"])

    def counts(self, kind: str, failed: int, running: int) -> dict[str, Any]:
        """How many stages of a kind there are in which state."""
        planned, done = self.planned[kind], self.worked[kind]
        running = min(running, planned - done - failed)
        missing = planned - done - failed - running
        return {"kind": kind, "done": done, "running": running, "failed": failed, "missing": missing, "all": planned}

    def sentences(self, driver: Holder | None, counts: Iterable[Mapping[str, Any]]) -> list[str]:
        """How far the run is, who drives it, how fast, and how long it will take."""
        done, planned = len(self.done), len(self.kinds)
        left = {row["kind"]: row["missing"] + row["running"] for row in counts}
        if driver is None:
            goes_on = "; the command that began it goes on" if any(left.values()) else ""
            return [f"{done} of {counted(planned, 'stage')} done.", f"No driver is at work on it{goes_on}."]
        since = driver.started
        elapsed = max((datetime.now(UTC) - since).total_seconds(), 1.0)
        fresh = sum(ended >= since for ended in self.ended)
        said = [f"{done} of {counted(planned, 'stage')} done.", f"Driven by {driver}."]
        if fresh:
            said.append(f"{frequency(fresh / elapsed)}, {duration(elapsed)} elapsed{self.rest(left, fresh / elapsed)}.")
        return said

    def rest(self, left: Mapping[str, int], rate: float) -> str:
        """How long the rest will take if stages take as long as those of their kind did; `rate` is of all stages."""
        known = [kind for kind in left if self.worked[kind]]
        mean = sum(self.work.values()) / max(sum(self.worked.values()), 1)
        at_a_time = max(rate * mean, 1e-9)  # seconds of work in a second
        seconds = sum(left[kind] * self.work[kind] / self.worked[kind] for kind in known) / at_a_time
        unknown = any(count for kind, count in left.items() if kind not in known)
        return f", {'more than ' if unknown else 'about '}{duration(seconds)} left"


class Heartbeat:
    """Whether a driver is at work, by what it writes; nothing is written to find out, as `metaprune status` does.

    A driver that this machine does not know counts as long as its heartbeat goes on by the clock of this process.
    """

    def __init__(self, store: Store):
        self.store = store
        self.last: datetime | None = None
        self.heard = 0.0

    def driver(self) -> Holder | None:
        """The process that drives the run; None where there is none, or it died."""
        found = read_holder(self.store)
        if found is None:
            return None
        if found.is_known_here:
            return found if found.is_process else None
        if found.renewed != self.last:
            self.last, self.heard = found.renewed, time.monotonic()
        return found if time.monotonic() - self.heard < STALE_SECONDS else None


class Curves:
    """The trainings that ended last, by epoch."""

    def __init__(self) -> None:
        self.rows: OrderedDict[str, dict[int, Mapping[str, Any]]] = OrderedDict()
        self.titles: dict[str, str] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of `epochs`."""
        for row in rows:
            key = row["cell"]
            self.rows.setdefault(key, {})[row["epoch"]] = row
            self.titles[key] = title_of({name: value for name, value in row.items() if value is not None})
            if len(self.rows) > MOST_CURVES:
                self.titles.pop(self.rows.popitem(last=False)[0])

    def shown(self, under_way: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Those under way, then the latest of the others."""
        going = [(f"{key[:8]}, at work", list(rows)) for key, rows in under_way.items()]
        ended = [(self.titles[key], list(rows.values())) for key, rows in reversed(self.rows.items())]
        return [
            {
                "title": title,
                "points": [[row["epoch"], finite(row["test_accuracy"]), finite(row["train_loss"])] for row in rows],
            }
            for title, rows in (going + ended)[:MOST_CURVES]
        ]


class Accuracies:
    """Mean accuracy against sparsity of the networks that end cells, kept as sums.

    Args:
        final: keys of the stages that end cells.
    """

    def __init__(self, final: set[str]):
        self.final, self.seen = final, set[str]()
        self.sums: dict[tuple[str, ...], dict[str, dict[float, list[float]]]] = {}
        self.unpruned: dict[str, list[float]] = defaultdict(list)

    def add(self, rows: pd.DataFrame) -> None:
        """Take in rows of `evaluations`."""
        rows = rows[~within(rows, self.seen)].drop_duplicates("cell")
        self.seen.update(rows["cell"])
        whole = rows[(rows["stage"] == "baseline") & (rows["training_data"] == "whole")]
        for model, accuracy in zip(whole["model"], whole["accuracy"], strict=True):
            self.unpruned[model].append(accuracy)
        ends = rows[
            within(rows, self.final)
            & rows["method"].notna()
            & rows["accuracy"].notna()
            & rows["target_sparsity"].notna()
        ]
        scope = ends["group"].notna().map({True: "one group", False: "all groups"})
        scope = scope.mask(ends["groups"].notna(), "several groups")
        scope = scope.mask(ends["stage"] == "fine-tuned", scope + ", fine-tuned")
        line = ends["method"].where(ends["pipeline"] == "whole-data", ends["method"] + " · " + ends["pipeline"])
        keys = [ends["model"], scope, ends["criterion"].fillna(""), line, ends["target_sparsity"]]
        for key, accuracies in ends["accuracy"].groupby(keys, sort=False):
            *panel, name, sparsity = key if isinstance(key, tuple) else (key,)
            point = self.sums.setdefault(tuple(map(str, panel)), {}).setdefault(str(name), {})
            total = point.setdefault(float(sparsity), [0.0, 0])
            total[0] += float(accuracies.sum())
            total[1] += len(accuracies)

    def panels(self) -> list[dict[str, Any]]:
        """A figure for each network, scope and criterion, with a line a method."""
        found = []
        for (model, scope, criterion), lines in list(self.sums.items())[:MOST_PANELS]:
            found.append(
                {
                    "title": ", ".join(part for part in (model, scope, criterion) if part),
                    "unpruned": mean(self.unpruned.get(model, [])),
                    "lines": [
                        {"title": name, "points": [[100 * x, total / n, n] for x, (total, n) in sorted(points.items())]}
                        for name, points in list(lines.items())[:MOST_LINES]
                    ],
                }
            )
        return found


def within(rows: pd.DataFrame, cells: Container[str]) -> pd.Series:
    """Which rows are of these cells; `isin` would go through all of a large run's cells for every few rows."""
    return pd.Series([cell in cells for cell in rows["cell"].tolist()], rows.index, dtype=bool)


def finite(value: float | None) -> float | None:
    """The value; None where it is no number that JSON has."""
    return value if value is not None and math.isfinite(value) else None


def mean(values: list[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


class Failures:
    """Rows of the table `failures`, each file read once."""

    def __init__(self, store: Store):
        self.store = store
        self.rows: dict[str, dict[str, Any]] = {}

    def present(self, planned: Mapping[str, str], done: set[str]) -> list[dict[str, Any]]:
        """Those of stages that are planned and not done."""
        names = self.store.failed()
        self.rows = {key: row for key, row in self.rows.items() if key in names}
        new = [f"{key}.parquet" for key in sorted(names - self.rows.keys()) if key in planned]
        try:
            read = self.store.read_shards("failures", new, ["cell", "kind", "error", "message"]).to_pylist()
        except FileNotFoundError:  # tried again meanwhile
            read = []
        self.rows |= {row["cell"]: row for row in read}
        return [row for key, row in self.rows.items() if key in planned and key not in done]


def grouped(failures: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Failures of one cause as one, the commonest first."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in failures:
        found.setdefault((row["kind"], f"{row['error']}: {message(row['message'])}"), []).append(row["cell"])
    ordered = sorted(found.items(), key=lambda each: -len(each[1]))[:MOST_FAILURES]
    return [{"kind": kind, "why": why, "count": len(cells), "cell": cells[0]} for (kind, why), cells in ordered]
