"""The structure of networks: which neurons belong together, and how layers change their width.

Removing a channel means removing it everywhere: the row of the weight that makes it, the entry of the batch-norm, the
column of every weight that reads it. Where two layers are added, what one of them makes can only go together with what
the other makes. To find these *groups*, metaprune runs the network once and follows every channel:

    x = conv1(image)        # conv1.weight is (8, 3, 3, 3)
    y = conv2(x) + x        # conv2.weight is (8, 8, 3, 3)
    logits = head(y.mean((2, 3)))

Each entry of each dimension of a parameter gets a number, its *label*: conv1's outputs 0 … 7, conv2's outputs 8 … 15,
conv2's inputs 16 … 23, head's inputs 24 … 31. Activations carry the labels of what made them. Then every operation
that PyTorch runs says what it does to labels:

1. `conv1` makes an activation that carries 0 … 7.
2. `conv2` reads it: input 16 *is* channel 0, 17 is 1 and so on. These labels are tied. What it makes carries 8 … 15.
3. `+` takes values at equal places: 8 is tied to 0, 9 to 1.
4. `mean` over positions leaves the channels alone; `head` ties 24 to 8.

Labels that are tied, {0, 8, 16, 24}, are one channel. All of conv1's and conv2's channels form one group, since layers
are narrowed as a whole: its *pairings* are the 8 sets of tied labels. An operation that does something else with
channels, such as a softmax over them, keeps them as they are, with the reason. At last every group is tried out on
numbers: pairings in another order must change nothing, and removing pairings must be the same as not reading them.

Attention multiplies activations with each other, head by head. Its channels cannot go one by one, but whole heads can,
and so can the same dimensions of every head. That is a second and a third way to read one recording (`Cut`): heads at
equal places are tied, or dimensions at equal places of all heads. `attending` says what the products do, `heads` makes
groups of it.

The modules, from the bottom: `labels` (numbers for the values of a tensor), `layers` (parameters of other sizes),
`copying` (copies of networks), `extending` (modules that do one thing otherwise), `reshaping` (those that infer sizes),
`standardised` (convolutions that standardise their weights), `windows` and `attention` (torchvision's and PyTorch's
attention, opened), `groups` (what is found, and narrowing it), `records` and `recording` (one forward pass), `moving`,
`combining`, `attending` and `layering` (rules for operations), `rules` (the table of all operations: look here to
support one more), `trial`, `findings` (which channels belong together), `heads` and `finding` (from a recording to
groups), `showing` (in words), `batch_norm` and `network` (a network ready to be compressed).
"""
