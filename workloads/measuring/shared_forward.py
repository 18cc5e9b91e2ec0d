"""Networks that begin alike, run together: what they have in common is computed once a batch."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Tracer

Forward = Callable[[Tensor], Iterator[Tensor]]


def forward_together(models: Sequence[nn.Module], example: Tensor) -> Forward:
    """A function from images (B, C, H, W) to the logits (B, classes) of every network, one after the other.

    What does not depend on a layer in which the networks differ is computed once. Where `torch.fx` cannot trace them,
    or the logits for `example` are not the same to the last bit, each network runs by itself.

    Args:
        models: copies of one network, in evaluation mode, that differ in nothing but weights and widths.
        example: a few images to try that out, on the device of the networks.
    """

    def apart(images: Tensor) -> Iterator[Tensor]:
        return (model(images.clone()) for model in models)

    if len(models) > 1:
        with contextlib.suppress(Exception):  # whatever a network's code raises on torch.fx's symbols
            together = split(models)
            if all(map(torch.equal, together(example.clone()), apart(example))):
                return together
    return apart


def split(models: Sequence[nn.Module]) -> Forward:
    """The same, without trying out whether it can be done."""
    graph = Tracer().trace(models[0])
    own = differing_nodes(graph, models)
    common = [node for node in graph.nodes if node not in own]
    boundary = [node for node in common if any(user in own for user in node.users)]
    prefix = GraphModule(models[0], subgraph((), common, boundary))
    suffixes = [GraphModule(model, subgraph(boundary, own)) for model in models]

    def together(images: Tensor) -> Iterator[Tensor]:
        values = prefix(images)
        return (suffix(*values) for suffix in suffixes)

    return together


def differing_nodes(graph: Graph, models: Sequence[nn.Module]) -> dict[Node, None]:
    """The output, and the nodes whose values are not those of the other networks, in the order of the graph."""
    own: dict[Node, None] = {}
    for node in graph.nodes:
        if node.op == "output" or any(source in own for source in node.all_input_nodes) or differs(node, models):
            own[node] = None
    return own


def differs(node: Node, models: Sequence[nn.Module]) -> bool:
    """Whether the weights that a node uses itself are not the same in all networks."""
    first, *others = (weights(node, model) for model in models)
    return any(
        first.keys() != other.keys() or not all(torch.equal(first[name], other[name]) for name in first)
        for other in others
    )


def weights(node: Node, model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers that a node uses itself."""
    if node.op == "get_attr":
        return {"": attrgetter(str(node.target))(model)}
    if node.op != "call_module":
        return {}
    layer = model.get_submodule(str(node.target))
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def subgraph(inputs: Collection[Node], nodes: Collection[Node], outputs: Collection[Node] = ()) -> Graph:
    """The graph of `nodes` alone, which takes the values of `inputs` and, if any are named, returns `outputs`."""
    graph = Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if outputs:
        graph.output(tuple(copies[node] for node in outputs))
    return graph
