"""How long the pipelines take, from the measured seconds of their stages (Fig. 22), and how training went (Fig. 20)."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports import figures
from reports.names import in_order, network_name
from reports.results.selection import SAME_WORK, Tables, cuts_of, pipeline_rows
from reports.statistics import over_seeds
from reports.tables import Table, number

KINDS = {
    "load": "#999999",
    "train": "#0072B2",
    "fine-tune": "#56B4E9",
    "sensitivity": "#F0E442",
    "allocate": "#009E73",
    "compress": "#E69F00",
    "fuse": "#CC79A7",
}
PIPELINES = ("whole-data", "FaP", "PaF")


class Durations:
    """Wall clock of chains of stages, if every network has a device of its own."""

    def __init__(self, plan: pd.DataFrame, timings: pd.DataFrame):
        """Take the stages of a run with their inputs, and their timings."""
        self.inputs: Mapping[str, list[str]] = dict(zip(plan["cell"], plan["inputs"], strict=True))
        self.stages = timings.set_index("cell")
        self.seconds: Mapping[str, float] = self.stages["seconds"].to_dict()
        self.finish: dict[str, float] = {}

    def finished(self, cell: str) -> float:
        """Seconds after which a stage ends; NaN where one before it was not timed."""
        if cell not in self.finish:
            start = np.max([0.0, *map(self.finished, self.inputs[cell])])  # NaN where one of them is
            self.finish[cell] = start + self.seconds.get(cell, float("nan"))
        return self.finish[cell]

    def before(self, cell: str) -> set[str]:
        """A stage and all that it needs."""
        return {cell}.union(*(self.before(read) for read in self.inputs[cell]))

    def trained(self, cell: str) -> float:
        """Seconds until the last of the models that a stage needs has been trained; NaN where one was given."""
        first = [one for one in self.before(cell) if not len(self.inputs[one])]
        if any(one in self.stages.index and self.stages.at[one, "kind"] == "load" for one in first):
            return float("nan")
        return float(np.max([*map(self.finished, first)]))


def pipeline_durations(tables: Tables) -> pd.DataFrame:
    """For each result of a pipeline, the seconds of training and of everything, and whole-data's over them."""
    durations, ends = Durations(tables.plan, tables.timings), pipeline_rows(tables)
    frame = ends.assign(
        training=[durations.trained(cell) for cell in ends["cell"]],
        overall=[durations.finished(cell) for cell in ends["cell"]],
    ).dropna(subset=["training", "overall"])
    if frame.empty:  # which pandas cannot join to itself
        return frame
    whole = frame[frame["pipeline"] == "whole-data"].drop_duplicates(SAME_WORK).set_index(SAME_WORK)
    frame = frame.join(whole[["training", "overall"]].add_suffix("_whole"), on=SAME_WORK)
    return frame.assign(
        training_gain=frame["training_whole"] / frame["training"],
        overall_gain=frame["overall_whole"] / frame["overall"],
    )


def runtime_table(tables: Tables) -> Iterator[tuple[str, Table]]:
    """Seconds and speed-ups of the pipelines, with one device a split model."""
    if (frame := pipeline_durations(tables)).empty:
        return
    body = []
    named = frame.assign(
        pipeline=frame["pipeline"].where(frame["note"] == "", frame["pipeline"] + ", " + frame["note"])
    )
    for (model, pipeline), cells in named.groupby(["model", "pipeline"], sort=True):
        by_seed = cells.groupby("seed")[["training", "overall", "training_gain", "overall_gain"]].mean()
        counts = [str(len(cells)), str(len(by_seed))]
        body.append([str(model), str(pipeline), *counts, *map(number, by_seed.mean(), by_seed.std())])
    caption = (
        "Seconds until the models are trained and until the pipeline ends, if each split model has a device of its "
        "own: the longest chain of stages as measured, mean over the cells and deviation over seeds; and how many "
        "times faster than whole-data."
    )
    head = [
        "model",
        "pipeline",
        "cells",
        "seeds",
        "training (s)",
        "overall (s)",
        "training speed-up",
        "overall speed-up",
    ]
    yield "runtime", Table(caption, head, body, 2)


def runtime_figure(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """The stages of each pipeline in time, a lane a network, for one cell that all pipelines have."""
    durations = Durations(tables.plan, tables.timings)
    for model, frame in pipeline_rows(tables).groupby("model", sort=True):
        counts = frame.groupby(SAME_WORK)["pipeline"].nunique()
        work = dict(zip(SAME_WORK, counts[counts == counts.max()].index[-1], strict=True))
        cells, branch = one_branch(frame[(frame[SAME_WORK] == pd.Series(work)).all(axis=1)])
        chains = [chain(durations, row.cell).assign(pipeline=row.pipeline) for row in cells.itertuples()]
        bars = pd.concat(chains).dropna(subset="finish")
        if not bars.empty:
            title = [f"{100 * work['target_sparsity']:g} % sparsity", work["method"], f"seed {work['seed']}"]
            title += [part for part in (work["note"], branch) if part]
            yield figures.stem("runtime", model), timeline(bars, ", ".join(title))


def one_branch(ends: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A row a pipeline, FaP and PaF with the same splits and fusion, and what these are where there are several."""
    named = ends.assign(
        pipeline=ends["pipeline"].str.partition(", ")[0], branch=ends["pipeline"].str.partition(", ")[2]
    )
    shared = named[named["branch"] != ""].groupby("branch", sort=False)["pipeline"].nunique()
    branch = "" if shared.empty else str(shared.idxmax())
    return named[named["branch"].isin(["", branch])].drop_duplicates("pipeline"), branch


def timeline(bars: pd.DataFrame, title: str) -> Figure:
    """Bars in time by kind of stage, a lane a network; columns pipeline, lane, kind, start and finish (seconds)."""
    found = set(bars[["pipeline", "lane"]].itertuples(index=False, name=None))
    lanes = sorted(found, key=lambda lane: (PIPELINES.index(lane[0]), lane[1]), reverse=True)
    figure, (axis,) = figures.panels([title], columns=1)
    figure.set_figwidth(figures.TEXT_WIDTH)
    unit, seconds = ("min", 60) if bars["finish"].max() > 180 else ("s", 1)
    for bar in bars.itertuples():
        span = [(bar.start / seconds, (bar.finish - bar.start) / seconds)]
        height = lanes.index((bar.pipeline, bar.lane)) - 0.4
        axis.broken_barh(span, (height, 0.8), color=KINDS[bar.kind], edgecolor="white")
    names = [f"{pipeline}, model {lane}" if (pipeline, 2) in found else pipeline for pipeline, lane in lanes]
    axis.set_yticks(range(len(lanes)), names)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(f"wall clock with one device a network ({unit})", fontsize=8)
    drawn = {kind: colour for kind, colour in KINDS.items() if kind in set(bars["kind"])}
    figures.legend(figure, {kind: {"color": colour, "linewidth": 6} for kind, colour in drawn.items()})
    return figure


def chain(durations: Durations, cell: str) -> pd.DataFrame:
    """Kind, start, finish and lane (1 for everything but the further split models) of what a result needs."""
    rows = []
    for one in durations.before(cell):
        if one not in durations.stages.index:
            continue
        stage, finish = durations.stages.loc[one], durations.finished(one)
        subset = str(stage["training_data"])
        lane = int(subset.removeprefix("subset-")) if subset.startswith("subset-") else 1
        rows.append({"kind": stage["kind"], "start": finish - stage["seconds"], "finish": finish, "lane": lane})
    return pd.DataFrame(rows, columns=["kind", "start", "finish", "lane"])


def overlap_table(tables: Tables) -> Iterator[tuple[str, Table]]:
    """How many of the split models really were trained at a time, from when their trainings began and ended."""
    training = tables.timings[(tables.timings["kind"] == "train") & tables.timings["split"].notna()]
    if training.empty:
        return
    body = []
    for (model, seed), stages in training.groupby(["model", "seed"], sort=True):
        work = (stages["finished"] - stages["started"]).dt.total_seconds().sum()
        wall = covered(stages)
        row = [
            len(stages),
            len(stages[["node", "worker"]].drop_duplicates()),
            number(work, digits=1),
            number(wall, digits=1),
        ]
        body.append([str(model), *map(str, (seed, *row)), number(work / wall)])
    caption = (
        "Training of the split models: seconds of all together, seconds of wall clock in which at least one of them "
        "was trained, and their ratio, the mean number trained at a time."
    )
    head = ["model", "seed", "models", "workers", "training (s)", "wall clock (s)", "at a time"]
    yield "split-training", Table(caption, head, body, 1)


def covered(stages: pd.DataFrame) -> float:
    """Seconds in which at least one of the stages ran."""
    total, end = pd.Timedelta(0), None
    for start, finish in stages.sort_values("started")[["started", "finished"]].itertuples(index=False):
        begin = start if end is None else max(start, end)
        total += max(finish - begin, pd.Timedelta(0))
        end = finish if end is None else max(finish, end)
    return float(total.total_seconds())


def training_figure(tables: Tables) -> Iterator[tuple[str, Figure]]:
    """Test accuracy by epoch of the models trained from scratch, a panel a model."""
    rows = tables.epochs[(tables.epochs["stage"] == "baseline") & tables.epochs["test_accuracy"].notna()]
    if rows.empty:
        return
    cuts = cuts_of(rows)
    several = len({*cuts} - {"–"}) > 1
    parts = [f" of {cut}" if several and cut != "–" else "" for cut in cuts]
    rows = rows.assign(training_data=rows["training_data"].replace("whole", "whole-data") + parts)
    every = {network_name(str(model)): frame for model, frame in rows.groupby("model", sort=True)}
    looks = figures.style(sorted(in_order(rows["training_data"]), key=lambda name: name != "whole-data"))
    for part_of, panels in figures.pages(every):
        figure, axes = figures.panels(list(panels), columns=2)
        means = [
            over_seeds(frame, ["training_data", "epoch"], "test_accuracy", cells=True) for frame in panels.values()
        ]
        for axis, curves in zip(axes, means, strict=True):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            for name, points in curves.groupby("training_data"):
                figures.curve(axis, points, "epoch", looks[str(name)], scale=1, name=str(name))
        figures.label(figure, "epoch", note=figures.repetitions(*means))
        figures.legend(figure, looks)
        yield figures.stem("training", *part_of), figure
