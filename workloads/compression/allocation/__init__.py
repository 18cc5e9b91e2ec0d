"""Allocation: how wide each group becomes so that together they meet a budget.

A share of a network's weights, multiplications or time can be removed in many ways. A search tells which groups bear
it best. It never looks at a test image: what it looks at are training images without their labels, in runs those that
no compression is shown, or made-up ones.

`elimination` needs no compressed network at all. If the layers that read a group are solved again, removing a neuron
adds a known squared error to what they make (`criteria.eliminating`). Weighted by the Fisher information of these
outputs, it becomes an estimate of how far the network's answer moves, in nats, by which the groups of a network can be
compared. So neurons of all groups go together, each time those that cost least per weight, multiplication or
millisecond that goes with them.

`sensitivity` and `greedy` compress networks as the cells at hand do, by their criterion, method and repair, and measure
how far the answers move from those of the network before: the Kullback-Leibler divergence, for which no label is
needed. `sensitivity` measures every group alone at a few widths, and finds the widths at the budget that lose least
in all; that groups lose together what each loses alone is supposed, not measured. `greedy` measures whole networks:
each step removes a share of the budget from every group in turn, and stays with the one that loses least.

The modules, from the bottom: `outcome` (what a search finds), `fisher` (how much the answer depends on what a layer
makes), `curves` (what each group is estimated to lose as its neurons go), `path` (the widths that these lead through),
`trials` (what narrowed copies are measured to lose), `sensitivity` (of each group alone), `knapsack` (the best widths,
where that is known), `greedy` (step by step), `searching` (one entry for all allocations).
"""

from workloads.compression.allocation.outcome import Allocation, GroupWidth
from workloads.compression.allocation.searching import allocate

__all__ = ["Allocation", "GroupWidth", "allocate"]
