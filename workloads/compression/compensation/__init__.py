"""Compensation: solving the layers again once neurons are gone.

Removing neurons leaves every layer that read them, and all that follow, with other inputs than they were trained for.
Original and narrowed network run side by side over a few images. Layer by layer, in the order in which they run, each
one that makes or reads pruned neurons gets the weights with which it comes nearest, from the inputs that it *now* gets,
to what the original makes of its own:

    W' = argmin ‖W'∗X' + b' − T‖² + λ‖W' − W0‖²

X' is what the layer reads in the narrowed network, whose earlier layers are solved already. T is the original's output
as the group's map P makes it: selected neurons, averages, or all of them where the layer makes no pruned group. W0 are
the original's weights, carried over to the new inputs by a ridge map from these to the old ones, channel by channel.
Where the layer's output is the last to be added to a residual stream, T is such that the *sum* is right: the layer
takes over what the other summand has lost.

The modules, from the bottom: `summands` (who adds what to what, from the operations of a pass), `passes` (many forward
passes that stop at the same layer), `sums` (normal equations, ridge and cross-validation), `plan` (which layers are
solved, and what is known of each), `layer` (looking at one and solving it), `refining` (a producer and its consumer
fitted together), `solving` (the layers one after the other); `attention_logits` (queries and keys, which meet in a
product and no layer reads); `views` (more of few images); and `synthetic` (made-up images, and the original as if it
knew them).
"""

from workloads.compression.compensation.originals import Originals
from workloads.compression.compensation.solving import compensate

__all__ = ["Originals", "compensate"]
