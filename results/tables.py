"""The tables of README.md and its sentences with numbers, made from the runs."""

from collections.abc import Sequence

from evidence import (
    COMPENSATION,
    DATA_FREE,
    FINE_TUNED,
    HALVES,
    KINDS,
    METHODS,
    TUNED_METHODS,
    VIT,
    after_fine_tuning,
    before_last_training,
    by_criterion,
    final,
    of_kinds,
    one_group,
    over_seeds,
    run,
    solved,
    tuned,
)

from reports.exhibits.reproduction import GRADES, graded
from reports.exhibits.runtime import pipeline_durations


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


def seeds_table(scope: str) -> str:
    """Average ranks and differences with intervals over seeds."""
    rows = []
    for method, row in over_seeds(scope).iterrows():
        base, comma, repair = str(method).partition(", ")
        numbers = [f"{row['rank']:.2f}", f"{row['accuracy']:.1f}"]
        for reference in ("conventional", "intra-fusion"):
            mean, low, high = (row[f"{reference} {part}"] for part in ("mean", "low", "high"))
            numbers.append("" if low == high else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})")
        p = row["intra-fusion p"]
        rows.append([METHODS[base] + comma + repair, *numbers, f"{p:.3f}" if p == p else ""])
    return markdown(["method", "rank", "accuracy", "minus conventional", "minus Intra-Fusion", "p"], rows)


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


def kinds_table() -> str:
    """Half of each kind of neurons of a small vision transformer gone, by what is done about it."""
    rows, found = final(VIT, groups="all"), of_kinds()
    weights = rows.groupby("kinds")["weight_sparsity"].mean()
    ways = {
        "conventional": "conventional",
        "folding": "folding",
        "least-squares": "least squares, 512 images",
        "least-squares(images=synthetic)": "least squares, made-up images",
    }
    body = [
        [
            kind,
            f"{100 * weights[kind]:.0f}",
            *("" if value != value else f"{value:.1f}" for value in found.loc[kind, [*ways]]),
        ]
        for kind in KINDS
    ]
    return markdown(["half of the", "weights gone (%)", *ways.values()], body)


def sentences() -> list[str]:
    """Sentences of the README whose numbers are recomputed."""
    return [latency_sentence(), halves_sentence(), speed_sentence()]


def tables() -> list[str]:
    """All tables of the README, in its order."""
    of_seeds = [seeds_table("one group"), seeds_table("all groups")]
    data_free = [reproduction(), gains_by_group(), methods_one_group(), criteria_table(), methods_all_groups()]
    compensation = [compensation_table(), compensation_by_sparsity(), compensation_by_criterion(), kinds_table()]
    return [*data_free, *compensation, cost(), *of_seeds, fine_tuned_table(), fused_halves(), tuned_halves()]
