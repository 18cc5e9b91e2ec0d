"""What each operation of PyTorch does to labels: one table, `RULES`.

To support another operation, add its name to the table, with one of the rules of `moving`, `combining` or `layering`
or a new one, and a test of a small network that uses it. A rule is a function of the recording and the operation. It
returns what each result carries, and tells the recording what it has learned. A rule that cannot follow the operation
returns `mixes(...)`, which keeps the channels as they are; so does every operation that the table does not have.
"""

from collections.abc import Callable

import torch

from workloads.structure import attending, combining, layering, moving
from workloads.structure.recording import Recording, mixes
from workloads.structure.records import Labels, Operation

Rule = Callable[[Recording, Operation], list[Labels]]


def spatial(*names: str) -> list[str]:
    """Names of operations for one, two and three dimensions of positions."""
    return [f"{name.replace('#', str(count))}" for name in names for count in (1, 2, 3)]


RULES: dict[str, Rule] = {
    # Values stay where they are.
    **dict.fromkeys(
        ["clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "native_dropout"], moving.same
    ),
    "lift_fresh_copy": moving.same,
    "as_strided": moving.same_vector,
    # Values move without being changed.
    **dict.fromkeys(["permute", "transpose", "t", "squeeze", "unsqueeze", "view", "_unsafe_view"], moving.viewed),
    **dict.fromkeys(["_reshape_alias", "reshape", "expand"], moving.viewed),
    **dict.fromkeys(["roll", "flip", "slice", "select", "split", "split_with_sizes", "unbind"], moving.moved),
    **dict.fromkeys(["chunk", "narrow", "pixel_shuffle", "pixel_unshuffle", "repeat"], moving.moved),
    **dict.fromkeys(["channel_shuffle", "native_channel_shuffle", "index", "index_select"], moving.moved),
    **dict.fromkeys(["cat", "stack"], moving.joined),
    "constant_pad_nd": moving.padded,
    # Values are made up.
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"], moving.filled),
    **dict.fromkeys(["zeros_like", "ones_like", "full_like", "empty_like"], moving.filled),
    # Values are combined one by one. (So are all operations that PyTorch calls pointwise.)
    **dict.fromkeys(["add", "sub", "mul", "div", "addcmul", "copy", "masked_fill", "threshold"], combining.pointwise),
    **dict.fromkeys(["gelu", "hardswish", "mish", "_prelu_kernel"], combining.pointwise),
    "glu": combining.gated,
    # Values are combined along some dimensions.
    **dict.fromkeys(["mean", "amax", "amin", "var", "std", "var_mean", "sum", "logsumexp", "prod"], combining.reduced),
    "linalg_vector_norm": combining.reduced,
    "norm": combining.reduced,
    **dict.fromkeys(
        ["_softmax", "_safe_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp"], combining.along_dimension
    ),
    **dict.fromkeys(spatial("avg_pool#d", "adaptive_avg_pool#d"), combining.pooled),
    **dict.fromkeys(["_adaptive_avg_pool2d", "_adaptive_avg_pool3d"], combining.pooled),
    **dict.fromkeys(spatial("max_pool#d_with_indices", "max_pool#d", "adaptive_max_pool#d"), combining.pooled),
    **dict.fromkeys(spatial("reflection_pad#d", "replication_pad#d", "upsample_nearest#d"), combining.pooled),
    **dict.fromkeys(spatial("_upsample_nearest_exact#d"), combining.pooled),
    **dict.fromkeys(["upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"], combining.pooled),
    **dict.fromkeys(["_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "upsample_trilinear3d"], combining.pooled),
    # Weights are applied.
    **dict.fromkeys(["convolution", "_convolution"], layering.convolution),
    "linear": layering.linear,
    **dict.fromkeys(["mm", "bmm"], layering.product),
    **dict.fromkeys(["addmm", "baddbmm"], layering.product_and_sum),
    "embedding": layering.embedding,
    **dict.fromkeys(["native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"], layering.batch_norm),
    **dict.fromkeys(["native_layer_norm", "_fused_rms_norm"], layering.layer_norm),
    "native_group_norm": layering.group_norm,
    # Activations are multiplied with each other.
    **dict.fromkeys(
        ["_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"], attending.attention
    ),
    **dict.fromkeys(
        ["_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"], attending.attention
    ),
}


def follow(recording: Recording, operation: Operation) -> None:
    """Give the results of an operation their labels."""
    tensors, results = operation.tensors, operation.results
    if tensors and results and all(result is tensors[0] for result in results):
        recording.origins.pop(tensors[0], None)  # an in-place operation: it is no longer what its layer made
    if not any(tensor in recording.labels or recording.source(tensor) for tensor in tensors):
        return
    if not results or "out" in operation.kwargs:
        for labels in recording.carried_by_all(operation):
            recording.fix(labels, f"{recording.place} takes values out of it ({operation.name})")
        return
    rule = RULES.get(operation.name) or RULES.get(operation.name.rstrip("_"))
    if rule is None:
        rule = combining.pointwise if torch.Tag.pointwise in operation.function.tags else mixes
    for result, carried in zip(results, rule(recording, operation), strict=True):
        if carried:
            recording.labels[result] = carried
        else:
            recording.labels.pop(result, None)
