"""Finding the groups of a network: recording, judging what was recorded, and trying it out."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from workloads.config import KINDS
from workloads.structure.attention import can_be_opened, opened
from workloads.structure.copying import copied
from workloads.structure.findings import Findings, Kept, Prunable, attributes_of, grouped
from workloads.structure.groups import CONSUMER, LayerSize, Structure
from workloads.structure.heads import Attention, attentions, left
from workloads.structure.layers import get_layer
from workloads.structure.logits import logits_of
from workloads.structure.recording import Recording
from workloads.structure.records import OUTPUT
from workloads.structure.rules import follow
from workloads.structure.standardised import keep_weights, standardised
from workloads.structure.trial import Candidate, Trial, fitting, running_eagerly


def trace(model: nn.Module, example: Tensor) -> Structure:
    """Find the groups of a network by running it once on `example` (1, C, H, W), and try them out.

    Groups come in the paper's order: from the last layer backwards, the classifier left out; first all channels and
    hidden units, then the other kinds one after the other. Groups that cannot be pruned are kept as they are and named
    in `Structure.kept`. PyTorch's attentions are taken as `attention.opened` makes them, convolutions
    that standardise their weights as `keep_weights` does.

    Raises:
        ValueError: the network does not return logits, or none of its groups can be pruned.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the network is compiled by TorchScript: give the module that it was made from")
    example = example.detach().as_subclass(Tensor)
    model.eval()
    if any(can_be_opened(module) or standardised(module) is not None for module in model.modules()):
        model = keep_weights(opened(copied(model)))
    recording = Recording(model.train().eval(), follow)  # modules forget what they kept
    with running_eagerly():
        output = logits_of(recording.run(example))
        if output in recording.outputs:
            recording.outputs[output].readers += 1
        for labels in recording.carried(output):
            recording.fix(labels, OUTPUT)
        candidates, kept, found = judged(model, Findings(recording))
        trial = Trial(model, example)
        groups, refused = fitting(trial, candidates)
        normalised = trial.mergeable(tuple(recording.batch_norms()))
    kept += left(found, refused)
    if not groups:
        reasons = "; ".join(f"{repr(name) if name else 'the network'}: {reason}" for name, reason in kept[:3])
        raise ValueError(f"none of its layers can be pruned{f' ({reasons})' if reasons else ''}")
    sizes = {
        layer: LayerSize(tuple(get_layer(model, layer).weight.shape), positions)
        for layer, positions in recording.work.items()
    }
    tables = {name for name in recording.calls if isinstance(get_layer(model, name), nn.Embedding)}
    opaque = frozenset(recording.opaque | recording.silent | tables)
    return Structure(tuple(groups), normalised, tuple(kept), opaque, sizes, frozenset(recording.silent))


def judged(model: nn.Module, findings: Findings) -> tuple[list[Candidate], list[tuple[str, str]], list[Attention]]:
    """Groups that may be prunable and those that are kept, with the names of their last layers; and all attentions."""
    candidates: list[Candidate] = []
    kept: list[tuple[str, str]] = []
    found = attentions(model, findings)
    covered: set[int] = {group for attention in found for group in attention.covered}
    for name, _ in reversed(list(model.named_modules())):
        if name in findings.recording.unfollowed:
            kept.append((name, findings.recording.unfollowed[name]))
        for group in findings.made_by(name):
            if group in covered:
                continue
            covered.add(group)
            verdict = findings.verdict(group)
            if isinstance(verdict, Prunable):
                candidates.append(candidate(model, findings, found, (name, group), verdict))
            elif isinstance(verdict, Kept):
                shares = findings.shares(group)
                candidates += [Candidate(name, share, kept=verdict.reason) for share in shares]
                kept += [] if shares else [(name, verdict.reason)]
    for attention in found:
        candidates += attention.candidates
    candidates.sort(key=lambda candidate: KINDS.index(candidate.group.kind) if candidate.group.kind != "hidden" else 0)
    return candidates, kept, found


def candidate(
    model: nn.Module, findings: Findings, attentions: Sequence[Attention], named: tuple[str, int], found: Prunable
) -> Candidate:
    """A group to be tried out, and what else it could be: with sizes that modules recorded, or with several of its
    pairings made one. Attentions may take their sizes, or a scale, from the width of the stream that they read.
    """
    (name, number), whole = named, grouped(found)
    sizes = {size for each in findings.reshaped[number] for size in each.sizes if size % whole.size == 0}
    attributes = attributes_of(model, {each.module for each in findings.reshaped[number]}, sizes)
    others = [replace(whole, attributes=attributes)] if attributes else []
    readers = {member.layer for member in whole.on(CONSUMER)}
    reading = [each for each in attentions if any(member.layer in readers for member in each.scaled)]
    modules = tuple(module for each in reading for module in each.modules)
    if modules:
        inferring = replace(whole, attributes=attributes, inferring=modules)
        scaled = tuple(member for each in reading for member in each.scaled)
        others += [inferring, replace(inferring, rescaled=scaled)]
    coarser = findings.coarser(number)
    if coarser is not None:
        others.append(coarser)
    like = ((name,), whole.kind, False) if modules else None  # what fits alone may not fit beside others by chance
    return Candidate(name, whole, tuple(others), like)
