"""The tables of a run: columns, types and units."""

import pyarrow as pa

SCHEMA_VERSION = 1


def field(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    """A nullable column with its meaning, and its unit where it has one."""
    metadata = {"meaning": meaning, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=metadata)


COORDINATES = [
    field("experiment", pa.string(), "name of the experiment"),
    field("cell", pa.string(), "key of the stage that made the row; a final row is a cell of a grid"),
    field("model", pa.string(), "label of the network, or its name, with the width where that is not 1"),
    field("dataset", pa.string(), "data set"),
    field(
        "training_data",
        pa.string(),
        "whole, subset-i of the folds, or parent-i of given networks, two of them for a line; null after fusion",
    ),
    field("pipeline", pa.string(), "whole-data, fap, paf or fuse; null for what pipelines share"),
    field("folds", pa.int32(), "parts that the training set was cut into; null for whole-data"),
    field(
        "split", pa.string(), "how it was cut: unions, separate or overlapping, with its settings; null for whole-data"
    ),
    field("fusion", pa.string(), "how models were fused, with its settings; null where none were"),
    field(
        "parents",
        pa.string(),
        "digests of the files of given networks that are fused, or of the one at hand; null where none were given",
    ),
    field("seed", pa.int64(), "seed of the experiment"),
    field("method", pa.string(), "compression method with its options; null before compression"),
    field("criterion", pa.string(), "importance criterion with its options; null before compression"),
    field("against", pa.string(), "method that a landscape compares with; null elsewhere"),
    field("group", pa.int32(), "pruned group, 0 nearest to the output; null is several groups, or none yet"),
    field(
        "groups",
        pa.string(),
        "groups that were pruned together, such as 0-2, 5, or 0: 0.3, 3: 0.7 where each has a sparsity of its own; "
        "null is `group`, or all",
    ),
    field(
        "kinds",
        pa.string(),
        "kind of the pruned group (channels, hidden, residual, heads, query-key, value-output), or of all that are "
        "pruned; null before compression and in runs of older versions",
    ),
    field("neuron_sparsity", pa.float64(), "share of pairings to remove so far: of n, int(n·(1 − s)) stay", "1"),
    field("target_sparsity", pa.float64(), "sparsity that the cell aims at, a share of `sparsity_of`", "1"),
    field(
        "sparsity_of",
        pa.string(),
        "what target_sparsity is a share of: neurons, weights, macs (multiplications of an image), or latency (time of "
        "a forward pass of one image on the row's device)",
    ),
    field(
        "allocation",
        pa.string(),
        "how the sparsity is spread: uniform, global (one threshold over all groups), isomorphic (one for each class), "
        "or elimination, sensitivity or greedy with their options",
    ),
    field("order", pa.string(), "output-first or input-first, when all groups are pruned"),
    field("round_to", pa.int32(), "groups keep a multiple of this many neurons"),
    field(
        "repair",
        pa.string(),
        "what was done for the layers around what was pruned: none, data-free, data, or least-squares with its options",
    ),
    field("stage", pa.string(), "baseline, pruned, fused or fine-tuned"),
    field("step", pa.int32(), "number of the pruning step; null outside iterative pruning"),
    field("final", pa.bool_(), "whether the row is the result of a cell, not on the way to one"),
    field(
        "settings",
        pa.string(),
        "JSON: all settings that the row depends on besides the other columns, those of its inputs included; null in "
        "runs of older versions",
    ),
]
PROVENANCE = [
    field("environment", pa.string(), "key of the row in environments"),
    field("schema_version", pa.int32(), "version of these columns"),
]

KIND = field(
    "kind",
    pa.string(),
    "train, load, fuse, sensitivity, allocate, compress, fine-tune, importances, distances, landscape or barrier",
)

IDENTITY = ("cell", "epoch", "part", "corner", "x", "y", "share", "of_group")

SCHEMAS: dict[str, pa.Schema] = {
    "plan": pa.schema(
        [
            *COORDINATES,
            KIND,
            field("inputs", pa.list_(pa.string()), "keys of the stages whose networks it reads"),
            field("schema_version", pa.int32(), "version of these columns"),
        ]
    ),
    "evaluations": pa.schema(
        [
            *COORDINATES,
            field("epoch", pa.int32(), "training epochs of the stage that lie behind the row"),
            field("weight_sparsity", pa.float64(), "share of the unpruned network's parameters removed", "1"),
            field("parameters", pa.int64(), "weights and biases"),
            field("macs", pa.int64(), "multiply-accumulate operations of one image"),
            field("accuracy", pa.float64(), "top-1 over all test images", "percent"),
            field("accuracy_top5", pa.float64(), "top-5 over all test images", "percent"),
            field(
                "balanced_accuracy",
                pa.float64(),
                "top-1 of each class, averaged over the classes; null in rows of version 0.1",
                "percent",
            ),
            field("loss", pa.float64(), "mean cross entropy over all test images", "nat"),
            field(
                "training_images",
                pa.int64(),
                "of the training set that a compression, or a fine-tuning on few, looked at; else null",
            ),
            field(
                "reached_sparsity",
                pa.float64(),
                "of what target_sparsity is a share of, what a compression reached; null for neurons, after training "
                "and in older runs",
                "1",
            ),
            field("calibration", pa.string(), "which part of which images these are, and which ones were made up"),
            field(
                "objective",
                pa.string(),
                "what a fine-tuning on few images, or on other answers than labels, brought down; else null",
            ),
            field("precision", pa.string(), "of products while measuring accuracy and loss: float32 or bfloat16"),
            field(
                "seconds", pa.float64(), "wall clock of measuring accuracy and loss; measured together, a share", "s"
            ),
            *(
                column
                for batch, images in ((1, "1 image"), (64, "64 images"))
                for column in (
                    field(
                        f"latency_{batch}",
                        pa.float64(),
                        f"median time of a forward pass of {images}; networks of equal layers and widths share it",
                        "ms",
                    ),
                    field(f"latency_{batch}_low", pa.float64(), "lower end of its 95 % interval", "ms"),
                    field(f"latency_{batch}_high", pa.float64(), "upper end", "ms"),
                )
            ),
            field("latency_others", pa.float64(), "CPU cores kept busy by other work meanwhile; null is unknown", "1"),
            field(
                "latency_others_gpu",
                pa.int32(),
                "other processes that used the GPU meanwhile; null on a CPU, and where that is unknown",
            ),
            field("device", pa.string(), "GPU, or CPU, that latencies were measured on"),
            *PROVENANCE,
        ]
    ),
    "epochs": pa.schema(
        [
            *COORDINATES,
            field("epoch", pa.int32(), "1, 2, …"),
            field("learning_rate", pa.float64(), "at the end of the epoch"),
            field("precision", pa.string(), "of products while learning: float32, tf32 or bfloat16"),
            field("train_loss", pa.float64(), "mean cross entropy while learning", "nat"),
            field("train_accuracy", pa.float64(), "top-1 while learning", "percent"),
            field("test_loss", pa.float64(), "mean cross entropy over all test images", "nat"),
            field("test_accuracy", pa.float64(), "top-1 over all test images", "percent"),
            field("seconds", pa.float64(), "wall clock of training, without measuring", "s"),
            *PROVENANCE,
        ]
    ),
    "splits": pa.schema(
        [
            *COORDINATES,
            field("part", pa.int32(), "number of the stretch among those of the model"),
            field("start", pa.float64(), "where the stretch of the shuffled training set begins", "1"),
            field("end", pa.float64(), "where it ends", "1"),
            field("samples", pa.list_(pa.int64()), "its images of each class, in the order of the classes"),
            *PROVENANCE,
        ]
    ),
    "allocations": pa.schema(
        [
            *COORDINATES,
            field("of_group", pa.int32(), "number of the group that the row is about"),
            field("layer", pa.string(), "first of the layers that make it"),
            field("neurons", pa.int32(), "neurons before any pruning"),
            field("width", pa.int32(), "neurons that a search or a threshold on scores lets it keep"),
            field("uniform_width", pa.int32(), "neurons that it would keep if all groups lost one share at the budget"),
            field(
                "loss",
                pa.float64(),
                "what the group alone is estimated or measured to lose at its width; of greedy, what the steps that "
                "narrowed it have cost",
                "nat",
            ),
            field("why", pa.string(), "what decided the width"),
            *PROVENANCE,
        ]
    ),
    "sensitivities": pa.schema(
        [
            *COORDINATES,
            field("of_group", pa.int32(), "number of the group that is narrowed alone"),
            field("layer", pa.string(), "first of the layers that make it"),
            field("neurons", pa.int32(), "neurons before any pruning"),
            field("widths", pa.list_(pa.int32()), "neurons that it keeps, from many to few"),
            field(
                "losses",
                pa.list_(pa.float64()),
                "mean Kullback-Leibler divergence of the answers at each width from those before, in nats",
            ),
            *PROVENANCE,
        ]
    ),
    "importances": pa.schema(
        [
            *COORDINATES,
            field("scores", pa.list_(pa.float64()), "importance of each neuron of the group before pruning"),
            *PROVENANCE,
        ]
    ),
    "output_distances": pa.schema(
        [
            *COORDINATES,
            field("mean", pa.float64(), "of the distances"),
            field(
                "distances",
                pa.list_(pa.float32()),
                "l2 distance of each test image's logits to those of the network before pruning",
            ),
            *PROVENANCE,
        ]
    ),
    "landscapes": pa.schema(
        [
            *COORDINATES,
            field("corner", pa.string(), "original, against or method where one of the networks lies; null elsewhere"),
            field("x", pa.float64(), "l2 distance from the original towards the method compared with"),
            field("y", pa.float64(), "l2 distance across, towards the method"),
            field("accuracy", pa.float64(), "top-1 over the test images of the landscape", "percent"),
            field("loss", pa.float64(), "mean cross entropy, likewise", "nat"),
            *PROVENANCE,
        ]
    ),
    "barriers": pa.schema(
        [
            *COORDINATES,
            field("share", pa.float64(), "of the second network of training_data; 0 and 1 are the two themselves", "1"),
            field("accuracy", pa.float64(), "top-1 over the test images of the barrier", "percent"),
            field("loss", pa.float64(), "mean cross entropy, likewise", "nat"),
            field(
                "excess",
                pa.float64(),
                "loss above the straight line between the losses at both ends; the most on a line is its barrier",
                "nat",
            ),
            *PROVENANCE,
        ]
    ),
    "timings": pa.schema(
        [
            *COORDINATES,
            KIND,
            field("started", pa.timestamp("us", "UTC"), "when the stage began"),
            field("finished", pa.timestamp("us", "UTC"), "when its output was stored"),
            field("seconds", pa.float64(), "wall clock of the stage; of what it does with others, an equal share", "s"),
            field("node", pa.string(), "Ray's id of the node"),
            field("worker", pa.int64(), "process id on the node"),
            field(
                "workers",
                pa.int32(),
                "processes that trained a network together, of which node, worker, gpus and threads are those of the "
                "first; null in runs of older versions",
            ),
            field("gpus", pa.string(), "ids of the GPUs it was given, comma-separated"),
            field("threads", pa.int32(), "CPU threads it was given"),
            field("tables", pa.list_(pa.string()), "the tables that have rows of the stage, besides this one"),
            *PROVENANCE,
        ]
    ),
    "failures": pa.schema(
        [
            *COORDINATES,
            KIND,
            field("error", pa.string(), "type of the exception"),
            field("message", pa.string(), "its message"),
            field("traceback", pa.string(), "where it was raised"),
            field("failed", pa.timestamp("us", "UTC"), "when"),
            *PROVENANCE,
        ]
    ),
    "environments": pa.schema(
        [
            field("environment", pa.string(), "key"),
            field("python", pa.string(), "version"),
            field("torch", pa.string(), "version"),
            field("torchvision", pa.string(), "version"),
            field("ray", pa.string(), "version"),
            field("metaprune", pa.string(), "version"),
            field("platform", pa.string(), "operating system"),
            field("processor", pa.string(), "model of the CPU"),
            field("gpu", pa.string(), "model of the GPU; null without one"),
            field("cuda", pa.string(), "version; null without a GPU"),
            field("git_commit", pa.string(), "of the working folder; null outside a repository"),
            field("schema_version", pa.int32(), "version of these columns"),
        ]
    ),
}


def identity(table: str) -> list[str]:
    """The columns whose values no two rows of a table share."""
    columns = [name for name in IDENTITY if name in SCHEMAS[table].names]
    return columns or ["environment"]
