"""The results that a report can hold, by id, each a small function of a run's tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from reports import figures
from reports.statistics import over_seeds
from reports.tables import Table, number, signed

PIPELINES = {"whole-data": "whole-data", "fap": "FaP", "paf": "PaF"}


@dataclass(frozen=True)
class Tables:
    """The tables of a run that results are made from."""

    evaluations: pd.DataFrame
    epochs: pd.DataFrame


Item = tuple[str, Figure | Table]


@dataclass(frozen=True)
class Result:
    """One entry of the catalogue.

    Attributes:
        shows: one sentence.
        needs: what an experiment must have for it.
        make: yields names and figures or tables; nothing where data is missing.
    """

    shows: str
    needs: str
    make: Callable[[Tables], Iterator[Item]]


def data_free_rows(tables: Tables) -> pd.DataFrame:
    """Final rows measured right after pruning one group."""
    frame = tables.evaluations
    return frame[frame["final"] & (frame["stage"] == "pruned") & frame["group"].notna()].astype({"group": int})


def pipeline_rows(tables: Tables) -> pd.DataFrame:
    """Final rows after fine-tuning."""
    frame = tables.evaluations
    return frame[frame["final"] & (frame["stage"] == "fine-tuned")]


def baselines(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The whole-data model before pruning, as the point at sparsity 0."""
    return frame[(frame["model"] == model) & (frame["stage"] == "baseline") & (frame["training_data"] == "whole")]


def variants(frame: pd.DataFrame) -> pd.Series:
    """The method, followed by the criterion where there are several."""
    if frame["criterion"].nunique() == 1:
        return frame["method"]
    return frame["method"] + " · " + frame["criterion"]


def data_free_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against neuron sparsity, a panel a group, a figure a model."""
    rows = data_free_rows(tables)
    for model, frame in rows.assign(variant=variants(rows)).groupby("model", sort=False):
        groups = sorted(frame["group"].unique())
        figure, axes = figures.panels([f"group {group}" for group in groups])
        looks = figures.style(sorted(frame["variant"].unique()))
        start = over_seeds(baselines(tables.evaluations, str(model)), ["neuron_sparsity"])
        for axis, group in zip(axes, groups, strict=True):
            means = over_seeds(frame[frame["group"] == group], ["variant", "neuron_sparsity"])
            for variant, look in looks.items():
                points = pd.concat([start, means[means["variant"] == variant]])
                figures.curve(axis, points, "neuron_sparsity", look)
        figure.supxlabel("neuron sparsity of the group (%)", fontsize=8)
        figure.supylabel("test accuracy (%)", fontsize=8)
        figures.legend(figure, looks)
        yield f"data-free-{model}", figure


def data_free_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by model, criterion, group and sparsity, and their difference where there are two."""
    rows = data_free_rows(tables)
    if rows.empty:
        return
    by = ["model", "criterion", "group", "target_sparsity"]
    means = over_seeds(rows, [*by, "method"])
    methods = sorted(means["method"].unique())
    head = ["model", "criterion", "group", "neuron sparsity (%)", *methods]
    pair = "conventional" in methods and "intra-fusion" in methods
    body = []
    for (model, criterion, group, sparsity), cells in means.groupby(by, sort=True):
        found = cells.set_index("method")
        row = [str(model), str(criterion), str(group), f"{100 * sparsity:g}"]
        row += [number(found["mean"].get(m, float("nan")), found["std"].get(m)) for m in methods]
        if pair:
            row.append(signed(found["mean"].get("intra-fusion") - found["mean"].get("conventional")))
        body.append(row)
    caption = "Test accuracy (%) after pruning one group, without fine-tuning."
    yield "data-free", Table(caption, head + ["Intra-Fusion gain"] * pair, body, 2)


def data_free_mean_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method by sparsity, mean over the groups."""
    rows = data_free_rows(tables)
    if rows.empty:
        return
    means = over_seeds(rows, ["model", "criterion", "target_sparsity", "method"])
    methods = sorted(means["method"].unique())
    body = []
    for (model, criterion, sparsity), cells in means.groupby(["model", "criterion", "target_sparsity"], sort=True):
        found = cells.set_index("method")["mean"]
        row = [str(model), str(criterion), f"{100 * sparsity:g}"]
        body.append(row + [number(found.get(method, float("nan"))) for method in methods])
    head = ["model", "criterion", "neuron sparsity (%)", *methods]
    caption = "Test accuracy (%) after pruning one group, without fine-tuning, mean over all groups and seeds."
    yield "data-free-mean", Table(caption, head, body, 2)


def pipelines_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against weight sparsity after fine-tuning, a panel a method, a figure a model."""
    rows = pipeline_rows(tables)
    for model, frame in rows.assign(variant=variants(rows)).groupby("model", sort=False):
        names = sorted(frame["variant"].unique())
        figure, axes = figures.panels(names, columns=2)
        looks = figures.style([name for name in PIPELINES if name in set(frame["pipeline"])])
        for axis, name in zip(axes, names, strict=True):
            means = over_seeds(frame[frame["variant"] == name], ["pipeline", "weight_sparsity"])
            for pipeline, look in looks.items():
                figures.curve(axis, means[means["pipeline"] == pipeline], "weight_sparsity", look)
        figure.supxlabel("weight sparsity (%)", fontsize=8)
        figure.supylabel("test accuracy (%)", fontsize=8)
        figures.legend(figure, {PIPELINES[pipeline]: look for pipeline, look in looks.items()})
        yield f"pipelines-{model}", figure


def pipelines_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of whole-data, FaP and PaF after fine-tuning by model, sparsity, criterion and method."""
    rows = pipeline_rows(tables)
    if rows.empty:
        return
    by = ["model", "criterion", "method", "target_sparsity"]
    pipelines = [name for name in PIPELINES if name in set(rows["pipeline"])]
    means = over_seeds(rows, [*by, "pipeline"])
    shares = rows.groupby(by)["weight_sparsity"].mean()
    body = []
    for key, cells in means.groupby(by, sort=True):
        model, criterion, method, sparsity = key
        found = cells.set_index("pipeline")
        row = [str(model), str(criterion), str(method), f"{100 * sparsity:g}", f"{100 * shares.loc[key]:.1f}"]
        body.append(row + [number(found["mean"].get(p, float("nan")), found["std"].get(p)) for p in pipelines])
    names = [PIPELINES[pipeline] for pipeline in pipelines]
    head = ["model", "criterion", "method", "neuron sparsity (%)", "weight sparsity (%)", *names]
    yield "pipelines", Table("Test accuracy (%) after pruning all groups and fine-tuning.", head, body, 3)


def models_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of the unpruned models: trained on everything, on the subsets, and fused."""
    frame = tables.evaluations
    rows = frame[frame["stage"].isin(["baseline", "fused"]) & (frame["neuron_sparsity"] == 0)]
    if rows.empty:
        return
    named = rows.assign(training_data=rows["training_data"].fillna("fused, before fine-tuning"))
    means = over_seeds(named, ["model", "training_data", "parameters", "macs"])
    body = [
        [row.model, row.training_data, f"{row.parameters:,}", f"{row.macs / 1e6:.2f}", number(row.mean, row.std)]
        for row in means.sort_values(["model", "training_data"]).itertuples()
    ]
    head = ["model", "trained on", "parameters", "million MACs", "accuracy"]
    yield "models", Table("Test accuracy (%) of the unpruned models.", head, body, 2)


RESULTS: dict[str, Result] = {
    "models": Result("accuracy and size of the unpruned models", "any experiment", models_table),
    "data-free-figure": Result(
        "accuracy against neuron sparsity, a group at a time", "a data-free grid of each group", data_free_figure
    ),
    "data-free-table": Result(
        "the same as a table, with the gain of Intra-Fusion", "a data-free grid of each group", data_free_table
    ),
    "data-free-mean": Result(
        "mean over the groups by method and sparsity", "a data-free grid of each group", data_free_mean_table
    ),
    "pipelines-figure": Result(
        "whole-data, FaP and PaF against weight sparsity", "a fine-tuned grid", pipelines_figure
    ),
    "pipelines-table": Result("the same as a table", "a fine-tuned grid", pipelines_table),
}
