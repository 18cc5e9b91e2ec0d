"""What README.md says in words, each with the number that it rests on and whether it holds."""

from collections.abc import Iterator

from evidence import (
    COMPENSATION,
    DATA_FREE,
    DATA_FREE_METHODS,
    EXACT,
    FINE_TUNED,
    HALVES,
    METHODS,
    SEEDS,
    WITHOUT_CRITERION,
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
    vit_base,
)

from reports.exhibits.reproduction import GRADES, graded
from reports.statistics import CELL, by_method

# (sentence, measured value, whether it holds)
Claim = tuple[str, float, bool]

REFINED = {
    512: ("elimination, conventional", "least-squares(refine=10, views=mirrored+shifted)", 512),
    128: ("elimination(images=128), conventional", "least-squares(images=128, refine=10, views=mirrored+shifted)", 128),
    0: ("elimination(images=synthetic), conventional", "least-squares(images=synthetic, refine=10)", 0),
}
MOST_LOST = {"VGG11-BN": {512: 1.7, 128: 2.5, 0: 3.3}, "ResNet18": {512: 1.7, 128: 2.5, 0: 2.5}}


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
    yield from of_transformers()


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
    for scope, most in {"one group": 0.01, "all groups": 0.1}.items():
        value = over_seeds(scope).loc[sure[scope], "intra-fusion p"].max()
        yield f"seeds, {scope}: largest corrected p that one of them is no better", value, value < most
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


def of_transformers() -> Iterator[Claim]:
    """Half of each kind of neurons of a small vision transformer gone."""
    found, base = of_kinds(), vit_base()
    most = {"query-key": 0.5, "hidden": 1, "value-output": 2, "heads": 7, "residual": 4}
    for kind, limit in most.items():
        lost = base - found.at[kind, "least-squares"]
        yield f"ViT, half of the {kind}, solved again on 512 images: points lost", lost, lost < limit
    value = (found["least-squares"] - found[["conventional", "folding"]].max(axis=1)).min()
    yield "ViT: least gain of solving again on the better of conventional pruning and folding", value, value > 4.9
