"""Figures and tables of fine-tuned grids: whole-data, FaP and PaF."""

from collections.abc import Iterator

from matplotlib.ticker import MaxNLocator

from reports import figures
from reports.exhibits.exhibit import Item
from reports.exhibits.grids import compared_table, methods_table
from reports.names import in_order
from reports.results.selection import SAME_WORK, Tables, pipeline_rows, pipelines_of, variants
from reports.statistics import over_seeds


def pipelines_figure(tables: Tables) -> Iterator[Item]:
    """Accuracy against weight sparsity after fine-tuning, a panel a method, a figure a model."""
    rows = pipeline_rows(tables)
    for model, frame in rows.assign(variant=variants(rows)).groupby("model", sort=False):
        every = {name: frame[frame["variant"] == name] for name in in_order(frame["variant"])}
        for part, panels in figures.pages(every):
            figure, axes = figures.panels(list(panels), columns=2)
            looks = figures.style(pipelines_of(frame))
            by = ["pipeline", "target_sparsity"]
            means = [over_seeds(cells, by, x="weight_sparsity", cells=True) for cells in panels.values()]
            for axis, points in zip(axes, means, strict=True):
                for pipeline, look in looks.items():
                    of_one = points[points["pipeline"] == pipeline]
                    figures.curve(axis, of_one, "weight_sparsity", look, name=pipeline)
            figures.label(figure, "weight sparsity (%)", note=figures.repetitions(*means))
            figures.legend(figure, looks)
            yield figures.stem("pipelines", model, *part), figure


def pipelines_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of whole-data, FaP and PaF after fine-tuning by model, sparsity, criterion and method."""
    rows = pipeline_rows(tables)
    if not rows.empty:
        by = ["model", "criterion", "method", "note", "target_sparsity"]
        caption = "Test accuracy (%) after pruning all groups and fine-tuning."
        yield "pipelines", compared_table(caption, rows, by, "pipeline", weights=True)


def fine_tuned_table(tables: Tables) -> Iterator[Item]:
    """Accuracy of each method after pruning all groups with fine-tuning, and the gain of Intra-Fusion."""
    rows = pipeline_rows(tables)
    caption = "Test accuracy (%) after pruning all groups and fine-tuning, whole-data."
    whole = rows[rows["pipeline"] == "whole-data"]
    yield from methods_table("fine-tuned", caption, whole, gain=True, weights=True)


def retraining_figure(tables: Tables) -> Iterator[Item]:
    """How far PaF is ahead of whole-data after equally much retraining, by epochs of PaF's last one."""
    ends = pipeline_rows(tables)
    ends = ends.assign(variant=variants(ends)).set_index("cell")
    curves = tables.epochs[tables.epochs["cell"].isin(ends.index)].dropna(subset="test_accuracy")
    if curves.empty:
        return
    curves = curves[["cell", "epoch", "test_accuracy"]].join(ends[[*SAME_WORK, "variant", "pipeline"]], on="cell")
    last = curves.groupby("cell")["epoch"].transform("max")
    whole = curves["pipeline"] == "whole-data"
    # whole-data's last retraining has the epochs of PaF's intermediate and last one
    curves = curves.assign(epoch=curves["epoch"].where(~whole, curves["epoch"] - last // 2))
    pairs = curves[curves["pipeline"].str.startswith("PaF")].merge(
        curves.loc[whole, [*SAME_WORK, "epoch", "test_accuracy"]], on=[*SAME_WORK, "epoch"], suffixes=("", "_whole")
    )
    pairs = pairs.assign(gain=pairs["test_accuracy"] - pairs["test_accuracy_whole"])
    several = pairs["pipeline"].nunique() > 1
    for (model, criterion, pipeline), frame in pairs.groupby(["model", "criterion", "pipeline"], sort=True):
        names = {sparsity: f"{100 * sparsity:g} %" for sparsity in sorted(frame["target_sparsity"].unique())}
        every = {name: frame[frame["variant"] == name] for name in in_order(frame["variant"])}
        for part, panels in figures.pages(every):
            figure, axes = figures.panels(list(panels), columns=2)
            looks = figures.style(list(names.values()))
            means = [over_seeds(cells, ["target_sparsity", "epoch"], "gain", cells=True) for cells in panels.values()]
            for axis, of_panel in zip(axes, means, strict=True):
                for sparsity, points in of_panel.groupby("target_sparsity"):
                    name = names[sparsity]
                    figures.curve(axis, points, "epoch", looks[name], scale=1, percent=False, name=name)
                axis.axhline(0, color="black", linewidth=0.5)
                axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            note = figures.repetitions(*means)
            figures.label(figure, "epochs of the last retraining", "PaF − whole-data (points)", note)
            figures.legend(figure, looks)
            yield figures.stem("retraining", model, criterion, *[pipeline] * several, *part), figure
