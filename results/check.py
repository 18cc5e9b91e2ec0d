"""Recompute every table and claim of results/README.md from the Parquet files beside it; exit status 1 if one is wrong.

python results/check.py             # tells every claim, and every table that the README has differently
python results/check.py --tables    # prints the tables, in Markdown
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from reports.exhibits.ranking import scopes
from reports.exhibits.reproduction import GRADES, graded
from reports.exhibits.runtime import pipeline_durations
from reports.results.selection import Tables, tables_of
from reports.statistics import CELL, average_ranks, by_method, paired_differences

HERE = Path(__file__).parent
DATA_FREE = {"VGG11-BN": "data-free-vgg11_bn", "ResNet18": "data-free-resnet18"}
FINE_TUNED = {"VGG11-BN": "fine-tuned-vgg11_bn", "ResNet18": "fine-tuned-resnet18"}
COMPENSATION = {"VGG11-BN": "compensation-vgg11_bn", "ResNet18": "compensation-resnet18"}
SELECTING = ("conventional",)
SEEDS, HALVES, EXACT, CRITERIA = "methods-seeds", "halves-vgg11_bn", "float32-vgg11_bn", "criteria-vgg11_bn"
METHODS = {
    "conventional": "conventional",
    "intra-fusion": "intra-fusion",
    "fusion-preserving": "fusion-preserving",
    "fusion-preserving(target=k-means)": "fusion-preserving, k-means targets",
    "folding": "folding",
    "neuron-merging": "neuron-merging",
    "reconstruction": "reconstruction",
}
TUNED_METHODS = ["conventional", "intra-fusion", "folding"]
DATA_FREE_METHODS = ["fusion-preserving", "fusion-preserving(target=k-means)", "folding"]
WITHOUT_CRITERION = DATA_FREE_METHODS[1:]

# (sentence, measured value, whether it holds)
Claim = tuple[str, float, bool]


@cache
def run(name: str) -> Tables:
    """The tables of a run in this folder."""
    return tables_of(HERE / name)


def final(name: str, *, groups: str) -> pd.DataFrame:
    """Final rows after pruning `one` group or `all`."""
    frame = run(name).evaluations
    return frame[frame["final"] & (frame["group"].isna() if groups == "all" else frame["group"].notna())]


def one_group(name: str) -> pd.DataFrame:
    """Accuracy a method (column) and a cell of one group under l1 that all methods have without repair."""
    frame = final(name, groups="one")
    frame = frame[(frame["criterion"] == "l1") & frame["method"].isin(METHODS)]
    return frame.pivot_table(index=["group", "target_sparsity"], columns="method", values="accuracy").dropna()


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column to the left."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def reproduction() -> str:
    """Intra-Fusion's gains beside those of Tables 10 to 13."""
    rows = []
    for name, folder in DATA_FREE.items():
        cells = graded(run(folder).evaluations.query("final"))
        for criterion, part in cells.groupby("criterion", sort=False):
            counts = part["grade"].value_counts().reindex(GRADES, fill_value=0)
            accuracies = [f"{part[f'measured_{method}'].mean():.1f}" for method in ("conventional", "intra-fusion")]
            gains = [f"{part[f'{whose}_gain'].mean():+.1f}" for whose in ("measured", "published")]
            signs = f"{counts.iloc[:2].sum()} / {counts.iloc[2]} / {counts.iloc[3]}"
            rows.append([f"{name}, {criterion}", str(len(part)), *accuracies, *gains, signs])
    head = ["", "cells", "conventional", "Intra-Fusion", "gain", "published gain", "sign same / unclear / opposite"]
    return markdown(head, rows)


def gains_by_group() -> str:
    """Intra-Fusion's mean gain in each group, measured and published."""
    rows = []
    for name, folder in DATA_FREE.items():
        cells = graded(run(folder).evaluations.query("final"))
        for whose in ("measured", "published"):
            gains = cells.groupby("group")[f"{whose}_gain"].mean()
            rows.append([f"{name}, {whose}", *(f"{gain:+.1f}" for gain in gains)])
    most = max(map(len, rows))
    return markdown(["group", *map(str, range(most - 1))], [row + [""] * (most - len(row)) for row in rows])


def methods_one_group() -> str:
    """Every method without repair: mean accuracy over one-group cells, and the worst cell beside conventional."""
    columns = []
    for folder in DATA_FREE.values():
        accuracies = one_group(folder)
        worst = accuracies.sub(accuracies["conventional"], axis=0).min().map("{:+.1f}".format)
        worst["conventional"] = ""
        columns.append([[f"{accuracies[method].mean():.1f}", worst[method]] for method in METHODS])
    rows = [[label, *first, *second] for label, first, second in zip(METHODS.values(), *columns, strict=True)]
    return markdown(["method", "VGG11-BN", "worst", "ResNet18", "worst"], rows)


def by_criterion() -> pd.DataFrame:
    """Mean accuracy of VGG11-BN by method and criterion over the same cells; methods that use none have one for all."""
    frame = pd.concat([final(folder, groups="one") for folder in (DATA_FREE["VGG11-BN"], CRITERIA)])
    cells = frame[frame["method"].isin(METHODS) & frame["target_sparsity"].isin([0.3, 0.5, 0.7])]
    means = cells.pivot_table(index="method", columns="criterion", values="accuracy").reindex(METHODS)
    for criterion in means:
        means.loc[WITHOUT_CRITERION, criterion] = means.loc[WITHOUT_CRITERION, "l1"]
    return means[["l1", "taylor", "lamp"]]


def criteria_table() -> str:
    """Every method under every criterion, one group pruned."""
    means = by_criterion()
    rows = [[METHODS[str(name)], *map("{:.1f}".format, values)] for name, values in means.iterrows()]
    return markdown(["method", *means], rows)


def methods_all_groups() -> str:
    """Every method on whole networks, by sparsity and repair: VGG11-BN / ResNet18."""
    whole = (final(folder, groups="all") for folder in DATA_FREE.values())
    found = [frame.set_index(["method", "target_sparsity"])["accuracy"] for frame in whole]
    cells = [(sparsity, repair) for repair in ("", ", data-free repair", ", repair") for sparsity in (0.2, 0.5)]
    rows = []
    for method, label in METHODS.items():
        each = [[accuracies.get((method + repair, sparsity)) for accuracies in found] for sparsity, repair in cells]
        rows.append([label, *("" if None in pair else " / ".join(f"{value:.1f}" for value in pair) for pair in each)])
    names = {"": "", ", data-free repair": ", data-free", ", repair": ", data"}
    return markdown(["method", *(f"{100 * sparsity:.0f} %{names[repair]}" for sparsity, repair in cells)], rows)


def over_seeds(scope: str) -> pd.DataFrame:
    """Ranks, means and differences from Intra-Fusion and conventional pruning over the seeds of both small networks."""
    frame = run(SEEDS).evaluations.query("final")
    accuracies = by_method(frame[scopes(frame) == scope])
    columns = {"rank": average_ranks(accuracies), "accuracy": accuracies.mean()}
    each = pd.DataFrame(columns)
    for reference in ("conventional", "intra-fusion"):
        each = each.join(paired_differences(accuracies, reference).add_prefix(f"{reference} "))
    return each.sort_values("rank")


def seeds_table(scope: str) -> str:
    """Average ranks and differences with intervals over seeds."""
    rows = []
    for method, row in over_seeds(scope).iterrows():
        base, comma, repair = str(method).partition(", ")
        numbers = [f"{row['rank']:.2f}", f"{row['accuracy']:.1f}"]
        for reference in ("conventional", "intra-fusion"):
            mean, low, high = (row[f"{reference} {part}"] for part in ("mean", "low", "high"))
            numbers.append("" if low == high else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})")
        rows.append([METHODS[base] + comma + repair, *numbers])
    return markdown(["method", "rank", "accuracy", "minus conventional", "minus Intra-Fusion"], rows)


def cost() -> str:
    """What pruning all groups conventionally saves: the widths, and so the costs, are those of every method."""
    rows = []
    for name, folder in DATA_FREE.items():
        frame = final(folder, groups="all")
        part = frame[frame["method"] == "conventional"].set_index("target_sparsity").sort_index()
        base = run(folder).evaluations.query("stage == 'baseline'").iloc[0]
        for sparsity, row in part.iterrows():
            weights, macs = f"{100 * row['weight_sparsity']:.0f}", f"{100 * (1 - row['macs'] / base['macs']):.0f}"
            rows.append([name, f"{100 * float(str(sparsity)):.0f}", weights, macs])
    return markdown(["network", "neurons removed (%)", "weights (%)", "multiplications (%)"], rows)


def after_fine_tuning(name: str) -> pd.DataFrame:
    """Accuracy by sparsity (row) and method, mean over seeds, after all steps of pruning and training."""
    ends = run(FINE_TUNED[name]).evaluations.query("final")
    return ends.pivot_table(index="target_sparsity", columns="method", values="accuracy")


def before_last_training(name: str) -> pd.DataFrame:
    """The same right after the last step of pruning."""
    rows = run(FINE_TUNED[name]).evaluations.query("stage == 'pruned' and step == 4")
    return rows.pivot_table(index="target_sparsity", columns="method", values="accuracy")


def fine_tuned_table() -> str:
    """Conventional pruning, Intra-Fusion and folding after fine-tuning, beside the paper's gain of Intra-Fusion."""
    rows = []
    for name, folder in FINE_TUNED.items():
        cells = graded(run(folder).evaluations.query("final")).set_index("target_sparsity")
        before = before_last_training(name)
        for sparsity, after in after_fine_tuning(name).iterrows():
            cell, percent = cells.loc[sparsity], 100 * float(str(sparsity))
            both = [f"{before.at[sparsity, method]:.1f} / {after[method]:.1f}" for method in TUNED_METHODS]
            gains = [f"{cell[f'{whose}_gain']:+.1f}" for whose in ("measured", "published")]
            rows.append([f"{name}, {percent:.0f} %", *both, *gains])
    head = ["network, neuron sparsity", "conventional", "Intra-Fusion", "folding", "gain", "published gain"]
    return markdown(head, rows)


def fused_halves() -> str:
    """Two halves, fused, before any further training."""
    frame = run(HALVES).evaluations
    fused = frame[(frame["stage"] == "fused") & frame["target_sparsity"].isna()].set_index("fusion")["accuracy"]
    names = {
        "none": "none (plain average)",
        "activations": "optimal transport by activations",
        "weights": "optimal transport by weights",
        "weight-matching": "weight matching (Git Re-Basin)",
    }
    rows = [[label, f"{fused[name]:.1f}", f"{fused[f'{name}(repair=False)']:.1f}"] for name, label in names.items()]
    return markdown(["alignment", "repaired", "not repaired"], rows)


def tuned() -> pd.DataFrame:
    """The last rows of all pipelines with two halves, which are named without their one fusion."""
    frame = run(HALVES).evaluations
    ends = frame[frame["final"] & (frame["stage"] == "fine-tuned")]
    return ends.assign(pipeline=ends["pipeline"].str.split(",").str[0])


def tuned_halves() -> str:
    """Pruned in steps and trained again, by pipeline."""
    ends = tuned()
    table = ends.pivot_table(index="target_sparsity", columns="pipeline", values="accuracy")
    weights = ends.groupby("target_sparsity")["weight_sparsity"].mean()
    rows = [
        [f"{100 * float(str(sparsity)):.0f} % ({100 * weights[sparsity]:.0f} %)"]
        + [f"{row[pipeline]:.1f}" for pipeline in ("whole-data", "FaP", "PaF")]
        for sparsity, row in table.iterrows()
    ]
    return markdown(["neuron sparsity (weights)", "whole-data", "FaP", "PaF"], rows)


def latency_sentence() -> str:
    """How much faster whole networks are at 50 %."""
    of_half = run("latency").evaluations.query("target_sparsity == 0.5").groupby("model")["latency_1"].first()
    whole = run("latency").evaluations.query("stage == 'baseline'").set_index("model")["latency_1"]
    times = whole / of_half
    return f"At 50 % one image takes {times['vgg11_bn']:.1f} times less (VGG11-BN), {times['resnet18']:.1f} (ResNet18)."


def halves_sentence() -> str:
    """How good the models before fusion are."""
    frame = run(HALVES).evaluations
    base = frame[frame["stage"] == "baseline"].set_index("training_data")["accuracy"]
    return f"Whole-data {base['whole']:.1f} %, halves {base['subset-1']:.1f} and {base['subset-2']:.1f} %."


def speed_sentence() -> str:
    """How much sooner the pipelines with two halves end."""
    timed = run(HALVES)
    durations = pipeline_durations(timed)
    columns = ["training_gain", "overall_gain"]
    speed = durations.assign(pipeline=durations["pipeline"].str.split(",").str[0]).groupby("pipeline")[columns].mean()
    training, (fap, paf) = speed.loc["FaP", columns[0]], speed.loc[["FaP", "PaF"], columns[1]]
    return f"training {training:.2f} times faster than whole-data, overall {fap:.2f} (FaP) and {paf:.2f} (PaF)"


def solved(name: str) -> pd.DataFrame:
    """Accuracy over seeds of a network's cells, every group pruned: mean, least, most and how many."""
    rows = final(COMPENSATION[name], groups="all")
    choice = rows["plain"].map(METHODS).where(~rows["plain"].isin(SELECTING), rows["criterion"] + ", conventional")
    keys = [choice.rename("choice"), rows["repair"], rows["training_images"], rows["target_sparsity"]]
    return rows.groupby(keys)["accuracy"].agg(["mean", "min", "max", "count"])


def over_few_seeds(mean: float, least: float, most: float, count: float) -> str:
    """A mean, and between what it lies where there are several."""
    return f"{mean:.1f}" if count == 1 else f"{mean:.1f} ({least:.1f} to {most:.1f})"


def compensation_table() -> str:
    """Accuracy with half of every group gone, by how the layers are repaired or solved again."""
    found = {name: solved(name).xs(0.5, level="target_sparsity") for name in COMPENSATION}
    first, second = found.values()
    rows = [
        [choice, repair, f"{images:.0f}", over_few_seeds(*first.loc[key]), over_few_seeds(*second.loc[key])]
        for key in first["mean"].sort_values().index.intersection(second.index, sort=False)
        for choice, repair, images in [key]
    ]
    return markdown(["choice", "repair", "training images", *found], rows)


def compensation_by_criterion() -> str:
    """VGG11-BN with half of every group gone, by criterion, repaired or solved again on 512 images."""
    found = solved("VGG11-BN")["mean"].xs(0.5, level="target_sparsity").droplevel("training_images").unstack("repair")
    rows = [
        [criterion, *(f"{found.loc[f'{criterion}, conventional', repair]:.1f}" for repair in ("data", "least-squares"))]
        for criterion in ("random", "l1", "chip", "taylor", "elimination")
    ]
    return markdown(["criterion", "repair on data", "least squares"], rows)


def compensation_by_sparsity() -> str:
    """VGG11-BN, elimination's choice at three sparsities."""
    found = solved("VGG11-BN")["mean"].droplevel("training_images").unstack("target_sparsity")
    ways = {
        "repair on data, 512 images": ("elimination", "data"),
        "least squares, no training image": ("elimination(images=synthetic)", "least-squares(images=synthetic)"),
        "least squares, 512 images": ("elimination", "least-squares"),
    }
    rows = [
        [way, *(f"{found.loc[(f'{criterion}, conventional', repair), sparsity]:.1f}" for sparsity in (0.3, 0.5, 0.7))]
        for way, (criterion, repair) in ways.items()
    ]
    return markdown(["neurons removed", "30 %", "50 %", "70 %"], rows)


def sentences() -> list[str]:
    """Sentences of the README whose numbers are recomputed."""
    return [latency_sentence(), halves_sentence(), speed_sentence()]


def tables() -> list[str]:
    """All tables of the README, in its order."""
    of_seeds = [seeds_table("one group"), seeds_table("all groups")]
    data_free = [reproduction(), gains_by_group(), methods_one_group(), criteria_table(), methods_all_groups()]
    compensation = [compensation_table(), compensation_by_sparsity(), compensation_by_criterion()]
    return [*data_free, *compensation, cost(), *of_seeds, fine_tuned_table(), fused_halves(), tuned_halves()]


def claims() -> Iterator[Claim]:
    """Every claim with its number."""
    for name, folder in DATA_FREE.items():
        yield from of_methods(name, folder)
    yield from of_criteria()
    yield from of_groups()
    yield from of_whole_networks()
    yield from of_seeds()
    for name in FINE_TUNED:
        yield from of_fine_tuning(name)
    yield from of_halves()
    yield from of_precision()
    yield from of_compensation()


REFINED = {
    512: ("elimination, conventional", "least-squares(refine=10, views=mirrored+shifted)", 512),
    128: ("elimination(images=128), conventional", "least-squares(images=128, refine=10, views=mirrored+shifted)", 128),
    0: ("elimination(images=synthetic), conventional", "least-squares(images=synthetic, refine=10)", 0),
}
MOST_LOST = {"VGG11-BN": {512: 1.7, 128: 2.5, 0: 3.3}, "ResNet18": {512: 1.7, 128: 2.5, 0: 2.5}}


def of_compensation() -> Iterator[Claim]:
    """Layers solved again, half of all neurons gone."""
    for name, folder in COMPENSATION.items():
        evaluations = run(folder).evaluations
        base = evaluations.loc[evaluations["stage"] == "baseline", "accuracy"].iloc[0]
        found = solved(name)["mean"].xs(0.5, level="target_sparsity")
        for images, key in REFINED.items():
            lost = base - found[key]
            yield (
                f"{name}, half of all groups, refined, {images} images: points lost",
                lost,
                lost < MOST_LOST[name][images],
            )
        target = METHODS["fusion-preserving(target=k-means)"]
        for key, kind, images in ((REFINED[512], "data", 512), (REFINED[0], "data-free", 0)):
            value = found[key] - found[target, kind, images]
            yield f"{name}: the same on {images} images against the best repair of statistics", value, value > 5
    criteria = (
        solved("VGG11-BN")["mean"].xs(0.5, level="target_sparsity").droplevel("training_images").unstack("repair")
    )
    chosen = criteria.loc[[f"{criterion}, conventional" for criterion in ("random", "l1", "chip", "taylor")]]
    spread = chosen["least-squares"].max() - chosen["least-squares"].min()
    yield "criteria but elimination, solved again: best minus worst", spread, spread < 1.5
    value = criteria.loc["elimination, conventional", "least-squares"] - chosen["least-squares"].max()
    yield "elimination against the best of them", value, value > 0.5


def of_methods(name: str, folder: str) -> Iterator[Claim]:
    """Methods without fine-tuning on trained weights."""
    cells = graded(run(folder).evaluations.query("final"))
    for criterion, part in cells.groupby("criterion", sort=False):
        value = part["measured_gain"].mean()
        yield f"{name}, {criterion}: Intra-Fusion's mean gain over conventional pruning", value, value > 1
        if criterion != "taylor":
            opposite = 100 * (part["grade"] == GRADES[3]).mean()
            yield f"{name}, {criterion}: share of cells with the opposite sign (%)", opposite, opposite < 10
    chance = cells[cells["intra-fusion"] < 10.2]
    if not chance.empty:
        value = chance["measured_intra-fusion"].min()
        yield f"{name}: least accuracy in {len(chance)} cells where the paper prints chance", value, value >= 62.5
        others = cells[(cells["criterion"] == "taylor") & ~cells["group"].isin(chance["group"].unique())]
        value = others["published_gain"].mean()
        yield f"{name}, taylor: published gain in the other groups", value, value > 0
    accuracies = one_group(folder)
    gains = accuracies.mean() - accuracies.mean()["intra-fusion"]
    losses = accuracies.sub(accuracies["conventional"], axis=0).min()
    for method in DATA_FREE_METHODS:
        value = gains[method]
        yield f"{name}, one group: {method} against Intra-Fusion in the mean", value, value > 0
        value = losses[method]
        yield f"{name}, one group: the worst cell of {method} against conventional pruning", value, value >= 0
    whole = final(folder, groups="all").pivot_table(index="target_sparsity", columns="method", values="accuracy")
    for method in ("conventional", "intra-fusion", "folding"):
        value = (whole[f"{method}, repair"] - whole[method]).min()
        yield f"{name}, all groups: least gain of {method} by repair on data", value, value >= 0


def of_criteria() -> Iterator[Claim]:
    """Methods under all criteria."""
    means = by_criterion()
    for method in WITHOUT_CRITERION:
        value = means.at[method, "l1"] - means.loc["intra-fusion"].max()
        yield f"VGG11-BN, one group: {method} against Intra-Fusion under its best criterion", value, value > 2
    value = (means.loc["fusion-preserving"] - means.loc["intra-fusion"]).min()
    yield "VGG11-BN, one group: fusion-preserving's least gain on Intra-Fusion under a criterion", value, value > 1.5
    value = (means.loc["reconstruction"] - means.drop("reconstruction").max()).min()
    yield "VGG11-BN, one group: reconstruction's least lead under a criterion", value, value > 0


def of_groups() -> Iterator[Claim]:
    """Where Intra-Fusion gains most."""
    gains = {}
    for name, folder in DATA_FREE.items():
        cells = graded(run(folder).evaluations.query("final"))
        gains[name] = cells.groupby("group")["measured_gain"].mean()
    value = gains["ResNet18"].loc[[3, 6, 9]].min()
    yield "ResNet18: least mean gain in groups 3, 6 and 9", value, value > 19
    value = gains["ResNet18"].drop([0, 3, 6, 9]).max()
    yield "ResNet18: largest mean gain in other groups but 0", value, value < 4
    value = gains["VGG11-BN"].idxmax()
    yield "VGG11-BN: group of the largest mean gain", value, value == 6


def of_whole_networks() -> Iterator[Claim]:
    """Methods on all groups that see no image, mean over 20, 30 and 50 %."""
    repaired = "fusion-preserving(target=k-means), data-free repair"
    means = {}
    for name, folder in DATA_FREE.items():
        frame = final(folder, groups="all").pivot_table(index="target_sparsity", columns="method", values="accuracy")
        without = [m for m in frame if not m.startswith("reconstruction") and not m.endswith(", repair")]
        means[name] = frame[without].mean()
        value = means[name]["folding"] - means[name]["intra-fusion"]
        yield f"{name}, all groups: folding against Intra-Fusion in the mean", value, value > 10
    value = means["VGG11-BN"]["folding"] - means["VGG11-BN"][repaired]
    yield "VGG11-BN, all groups: folding against k-means targets with data-free repair", value, 0 < value < 1
    value = means["ResNet18"][repaired] - means["ResNet18"].drop(repaired).max()
    yield "ResNet18, all groups: k-means targets with data-free repair against the next best", value, value > 0


def of_fine_tuning(name: str) -> Iterator[Claim]:
    """Iterative pruning with an epoch after each step and two at the end."""
    before, after = before_last_training(name), after_fine_tuning(name)
    gains = after["intra-fusion"] - after["conventional"]
    yield f"{name}, fine-tuned: Intra-Fusion's mean gain", gains.mean(), gains.mean() > 1
    yield f"{name}, fine-tuned: its least gain", gains.min(), gains.min() > -0.1
    yield f"{name}, fine-tuned: sparsity of its largest gain", gains.idxmax(), gains.idxmax() == 0.8
    value = (before["folding"] - before["intra-fusion"]).mean()
    yield f"{name}: folding against Intra-Fusion before the last training", value, value > 2
    value = (after["folding"] - after["intra-fusion"]).mean()
    yield f"{name}: folding against Intra-Fusion after it", value, value < -1


def of_seeds() -> Iterator[Claim]:
    """Methods over networks trained from several seeds."""
    sure = {"one group": DATA_FREE_METHODS, "all groups": ["fusion-preserving(target=k-means)", "folding"]}
    for scope, methods in sure.items():
        each = over_seeds(scope)
        for method in methods:
            value = each.loc[method, "intra-fusion low"]
            yield f"seeds, {scope}: lower end of the interval of {method} less Intra-Fusion", value, value > 0
    differences = by_method(final(SEEDS, groups="one")).eval("folding - conventional")
    value = differences.min()
    yield (
        f"seeds, one group: folding's worst of {len(differences)} cells minus conventional pruning",
        value,
        value >= -1.2,
    )
    value = differences.groupby(CELL).mean().min()
    yield "the same, mean over seeds", value, value >= 0


def of_halves() -> Iterator[Claim]:
    """Two halves of the training set, fused."""
    frame = run(HALVES).evaluations
    base = frame[frame["stage"] == "baseline"].set_index("training_data")["accuracy"]
    fused = frame[(frame["stage"] == "fused") & frame["target_sparsity"].isna()].set_index("fusion")["accuracy"]
    value = fused["activations"] - fused["none"]
    yield "fused by activations against plain averaging, both repaired", value, value >= 25
    value = fused["activations(repair=False)"] - fused["none(repair=False)"]
    yield "the same without repair", value, value >= 25
    value = fused["activations"] - fused["activations(repair=False)"]
    yield "what repair adds to fusion by activations", value, value >= 25
    value = fused["activations"] - max(base["subset-1"], base["subset-2"])
    yield "fused by activations and repaired, untrained, against the better half", value, value >= -4
    ends = tuned().groupby("pipeline")["accuracy"].mean()
    for pipeline in ("FaP", "PaF"):
        value = ends[pipeline] - ends["whole-data"]
        yield f"{pipeline} against whole-data, mean of both sparsities", value, -5 <= value <= 0


def of_precision() -> Iterator[Claim]:
    """Cells measured in float32 too."""
    cell = ["group", "target_sparsity", "criterion", "method"]
    exact, rounded = (final(name, groups="one").set_index(cell)["accuracy"] for name in (EXACT, DATA_FREE["VGG11-BN"]))
    differences = (exact - rounded).dropna().abs()
    value = differences.max()
    yield f"largest difference of bfloat16 from float32 in {len(differences)} cells", value, value < 0.075
    value = differences.mean()
    yield "mean difference of bfloat16 from float32 in them", value, value <= 0.1


def check(tell: Callable[[str], object] = print) -> bool:
    """Tell every claim, and every table that the README has differently; whether all is as written."""
    found = list(claims())
    for sentence, value, holds in found:
        tell(f"{'holds ' if holds else 'BROKEN'} {value:+7.2f}  {sentence}")
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    told = " ".join(readme.split())
    wrong = [table for table in tables() if table not in readme]
    wrong += [sentence for sentence in sentences() if sentence not in told]
    for part in wrong:
        tell(f"BROKEN          the README has this differently:\n{part}")
    return not wrong and all(holds for *_, holds in found)


if __name__ == "__main__":
    if "--tables" in sys.argv[1:]:
        print("\n\n".join(tables()))
    else:
        sys.exit(not check())
