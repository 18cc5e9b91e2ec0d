"""Allocation: how wide each group becomes so that together they meet a budget.

A share of a network's weights, multiplications or time can be removed in many ways. A search tells which groups bear
it best. It never looks at a test image: what it looks at are training images without their labels, in runs those that
no compression is shown, or made-up ones.

`elimination` needs no compressed network at all. If the layers that read a group are solved again, removing a neuron
adds a known squared error to what they make (`criteria.eliminating`). Weighted by the Fisher information of these
outputs, it becomes an estimate of how far the network's answer moves, in nats, by which the groups of a network can be
compared. So neurons of all groups go together, each time those that cost least per weight, multiplication or
millisecond that goes with them.

The modules, from the bottom: `outcome` (what a search finds), `fisher` (how much the answer depends on what a layer
makes), `curves` (what each group loses as its neurons go), `path` (the widths that these lead through), `searching`
(one entry for all allocations).
"""

from workloads.compression.allocation.outcome import Allocation, GroupWidth
from workloads.compression.allocation.searching import allocate

__all__ = ["Allocation", "GroupWidth", "allocate"]
