"""Accuracy against the number of images that layers were solved on."""

import re
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from reports import figures
from reports.exhibits.exhibit import Item
from reports.names import in_order
from reports.results.selection import Tables, final_rows, joined
from reports.statistics import over_seeds

SOLVED = "least-squares"
DEFAULT = 512  # images, where the repair's label names no number
UNPRUNED: figures.Look = {"color": "#000000", "linestyle": "--", "label": "unpruned"}


def images_figures(tables: Tables) -> Iterator[Item]:
    """A figure a model and scope, a panel a sparsity, a line for each choice of neurons that was solved on several
    numbers of images."""
    rows = final_rows(tables)
    rows = rows[rows["repair"].fillna("").str.startswith(SOLVED) & (rows["stage"] != "fine-tuned")]
    rows = rows.assign(
        images=[images_of(label) for label in rows["repair"]], others=[others(x) for x in rows["repair"]]
    )
    rows = rows[rows["images"].notna()]
    rows = rows.assign(
        variant=joined(rows[["criterion", "plain", "others", "note"]]),
        scope=["" if pd.isna(group) else f"group-{group:g}" for group in rows["group"]],
    )
    for (model, scope), frame in rows.groupby(["model", "scope"], sort=False):
        several = frame.groupby("variant")["images"].transform("nunique") > 1
        if several.any():
            start = tables.evaluations[tables.evaluations["stage"] == "baseline"]
            base = start[(start["model"] == model) & (start["training_data"] == "whole")]["accuracy"].mean()
            yield (
                figures.stem("accuracy-against-images", str(model), *filter(None, [scope])),
                drawn(frame[several], base),
            )


def images_of(label: str) -> int | None:
    """The number of images in a repair's label; None for made-up ones."""
    found = re.search(r"images=(\w+)", label)
    if found is None:
        return DEFAULT
    return int(found[1]) if found[1].isdigit() else None


def others(label: str) -> str:
    """The other options in a repair's label."""
    options = re.search(r"\((.*)\)", label)
    rest = [option for option in (options[1].split(", ") if options else []) if not option.startswith("images=")]
    return ", ".join(rest)


def drawn(rows: pd.DataFrame, base: float) -> Figure:
    """A panel a sparsity; `base` is the accuracy of the unpruned model."""
    sparsities = sorted(rows["target_sparsity"].unique())
    figure, axes = figures.panels([f"{100 * sparsity:g} %" for sparsity in sparsities], columns=3)
    looks = figures.style(in_order(rows["variant"]))
    points = []
    for axis, sparsity in zip(axes, sparsities, strict=True):
        means = over_seeds(rows[rows["target_sparsity"] == sparsity], ["variant", "images"], cells=True)
        points.append(means)
        for variant, line in means.groupby("variant", sort=False):
            figures.curve(axis, line.sort_values("images"), "images", looks[str(variant)], 1, name=str(variant))
        if pd.notna(base):
            axis.axhline(base, **UNPRUNED)
        axis.set_xscale("symlog", base=2, linthresh=16)
    figures.label(figure, "images without labels", note=figures.repetitions(*points))
    figures.legend(figure, {**looks, "unpruned": UNPRUNED})
    return figure
