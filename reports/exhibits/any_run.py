"""What a report can show of any run, by id."""

from reports.exhibits import (
    allocations,
    barriers,
    calibration,
    cells,
    comparisons,
    grids,
    models,
    pipelines,
    ranking,
    reproduction,
    runtime,
    tradeoffs,
    ways,
)
from reports.exhibits.exhibit import Exhibit

CIFAR10 = "data-free-cifar10"
EACH_GROUP, ALL_GROUPS, TUNED = "a data-free grid of each group", "a data-free grid of all groups", "a fine-tuned grid"
SPLIT = "pipelines fap or paf"

ANY_RUN: dict[str, Exhibit] = {
    "models": Exhibit("accuracy and size of the unpruned models", "any experiment", models.models_table),
    "models-by-seed": Exhibit("accuracy of the trained models by seed", "any experiment", models.seeds_table),
    "training": Exhibit(
        "test accuracy by epoch of the models trained from scratch",
        "trainings of more than an epoch",
        runtime.training_figure,
    ),
    "splits": Exhibit("what of the training set each split model sees", SPLIT, models.splits_figure),
    "split-training": Exhibit("how many split models were trained at a time", SPLIT, runtime.overlap_table),
    "data-free-figure": Exhibit(
        "accuracy against neuron sparsity, a group at a time", EACH_GROUP, grids.data_free_figure
    ),
    "data-free-table": Exhibit(
        "accuracy of each method a group at a time, and the gain of Intra-Fusion", EACH_GROUP, grids.data_free_table
    ),
    "data-free-mean": Exhibit(
        "accuracy of each method a group at a time, mean over the groups", EACH_GROUP, grids.data_free_mean_table
    ),
    "whole-network-figure": Exhibit(
        "accuracy against neuron sparsity when all groups are pruned", ALL_GROUPS, grids.whole_network_figure, "methods"
    ),
    "whole-network-table": Exhibit(
        "accuracy of each method when all groups are pruned", ALL_GROUPS, grids.whole_network_table, "methods"
    ),
    "ways": Exhibit(
        "accuracy of every choice and repair when all groups are pruned, the best first",
        "a data-free grid of all groups with several repairs",
        ways.ways_figures,
        "compensation",
    ),
    "pipelines-figure": Exhibit("whole-data, FaP and PaF against weight sparsity", TUNED, pipelines.pipelines_figure),
    "pipelines-table": Exhibit("whole-data, FaP and PaF after fine-tuning", TUNED, pipelines.pipelines_table),
    "retraining": Exhibit(
        "PaF against whole-data by epochs of retraining", f"{TUNED} of paf and whole-data", pipelines.retraining_figure
    ),
    "timeline": Exhibit("the stages of whole-data, FaP and PaF in time", TUNED, runtime.runtime_figure),
    "runtime": Exhibit("seconds and speed-ups of the pipelines", TUNED, runtime.runtime_table),
    "masses": Exhibit(
        "how the importance lies on the neurons of each group",
        "a grid with importances: true",
        comparisons.mass_figures,
        CIFAR10,
    ),
    "output-distances-figure": Exhibit(
        "distances of the outputs to those before pruning",
        "a grid with output_distances: true",
        comparisons.distance_figures,
        "output-distances",
    ),
    "output-distances": Exhibit(
        "the means of these distances",
        "a grid with output_distances: true",
        comparisons.distance_table,
        "output-distances",
    ),
    "landscapes": Exhibit(
        "accuracy over the plane through the original and two pruned networks",
        "a grid with landscape: {}",
        comparisons.landscape_figures,
        "landscapes",
    ),
    "barriers-figure": Exhibit(
        "loss and accuracy along the straight line between two networks, for each alignment",
        "pipeline fuse with barrier: {}",
        barriers.barrier_figures,
        "barriers",
    ),
    "barriers": Exhibit(
        "the loss barrier and the accuracy barrier of each alignment",
        "pipeline fuse with barrier: {}",
        barriers.barrier_table,
        "barriers",
    ),
    "distributions": Exhibit(
        "accuracy of Intra-Fusion by source and target distribution",
        "a data-free grid with Intra-Fusion's marginals, several seeds",
        comparisons.distributions_table,
        "distributions",
    ),
    "distributions-figure": Exhibit(
        "Kruskal-Wallis p-values between these distributions",
        "a data-free grid with Intra-Fusion's marginals, several seeds",
        comparisons.distributions_figure,
        "distributions",
    ),
    **{
        f"accuracy-against-{name}": Exhibit(
            f"accuracy against {name.replace('-', ' ').replace('macs', 'MACs')}, and the Pareto front",
            "a grid of all groups",
            tradeoffs.accuracy_against(name),
            "methods",
        )
        for name in tradeoffs.COSTS
    },
    "accuracy-against-images": Exhibit(
        "accuracy against the number of images that layers were solved on",
        "a grid with repair: least-squares on several numbers of images",
        calibration.images_figures,
        "compensation",
    ),
    **{
        f"allocations-against-{name}": Exhibit(
            f"accuracy against {said} of each allocation, a panel a method, and the Pareto front",
            "grids of all groups that differ in allocation",
            allocations.accuracy_against(name),
            "allocations",
        )
        for name, said in (("macs", "MACs"), ("latency", "latency"))
    },
    "widths": Exhibit(
        "how wide each allocation lets every group be",
        "a grid with an allocation that is not uniform",
        allocations.widths_figures,
        "allocations",
    ),
    "ranks": Exhibit("methods over all cells", "a grid with two methods", ranking.ranks_tables),
    "reproduction": Exhibit(
        "measured beside published",
        "a width-1 model, data set and grid of the paper",
        reproduction.reproduction_tables,
        CIFAR10,
    ),
    "cells": Exhibit("every measured network, its accuracy and its costs", "any experiment", cells.all_cells),
}
