"""Trying an experiment out before anything runs, on made-up images: what would fail after hours fails in `plan`.

Each network learns one step and is stored and read back; each criterion ranks the smallest group that is pruned, each
method compresses it, with each repair, and what the first one makes is stored and read back too. What comes out is
thrown away, and the random numbers of this process are as they were before.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from orchestrator.settings.experiment import Experiment, PruningConfig
from workloads.compression import Sources, compress, score
from workloads.compression.choosing import left_alone
from workloads.compression.compress import check_reach
from workloads.compression.criteria import taking_gradients
from workloads.compression.criteria.gradient import gradients_of
from workloads.compression.methods import check_kind
from workloads.compression.sources import made
from workloads.config import (
    ChoiceConfig,
    CompressionConfig,
    ModelConfig,
    Repair,
    ScopeConfig,
    TrainingConfig,
    repair_label,
)
from workloads.data.samples import Dataset
from workloads.messages import first_line, text_of
from workloads.networks import checkpoints
from workloads.networks.checkpoints import Description
from workloads.plugins import CRITERION
from workloads.recipes import TimmPolicyConfig
from workloads.structure.attention import opened
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.copying import copied
from workloads.structure.groups import Group, Structure
from workloads.structure.layers import get_layer
from workloads.structure.network import Network
from workloads.structure.standardised import keep_weights
from workloads.training.optimizers import optimizer_of

IMAGES = 4
LOW_RATE = 1e-3


def try_out(
    experiment: Experiment, config: ModelConfig, model: nn.Module, structure: Structure, dataset: Dataset
) -> nn.Module:
    """Do once, as small as can be, what the stages of one of the experiment's networks will do.

    Args:
        model: the network; not changed.
        structure: its groups.
        dataset: for the shape of its images and the number of its classes; no image is read.

    Returns:
        A network that the experiment ends with: narrowed, where it prunes any.

    Raises:
        ValueError: something fails; says what, of which network, and why.
    """
    classes = len(dataset.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images, labels = torch.randn(IMAGES, *dataset.shape), torch.arange(IMAGES) % classes
        with explained(f"model '{config.name}' cannot be copied"):
            spare = copied(model)
        trainings = [] if config.given else [("trained", experiment.training)]
        if any(grid.mode == "fine-tuned" for grid in experiment.pruning_grids):
            trainings.append(("fine-tuned", experiment.fine_tuning))
        for how, training in trainings:
            with explained(f"model '{config.name}' cannot be {how}"):
                learn_a_step(spare, images, labels, training)
                augment_an_image(dataset, training)
        with explained(f"model '{config.name}' cannot be stored"):
            store_and_read(spare, config, structure, dataset)
        network = prepared(spare.eval(), structure)
        sources = Sources(images[:1], batches=[(images, labels)], images=[images])
        narrowed = [try_grid(grid, config, network, sources, dataset) for grid in experiment.pruning_grids]
    return next((narrow for narrow in narrowed if narrow is not None), network.model)


def prepared(model: nn.Module, structure: Structure) -> Network:
    """The network with batch-norm merged and attentions opened, in place."""
    model = keep_weights(opened(model))
    return Network(model, structure, merge_batch_norm(model, structure))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever a block raises into a sentence that begins with `what`.

    Raises:
        ValueError: the block raised something.
    """
    try:
        yield
    except (Exception, SystemExit) as error:  # own code may also try to end the process
        reason = text_of(error) if isinstance(error, ValueError) else first_line(error)
        raise ValueError(f"{what}: {reason}") from error


def learn_a_step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: TrainingConfig) -> None:
    """One step of the optimizer in training mode, at a low rate."""
    logits = model.train()(images)
    if not isinstance(logits, torch.Tensor):
        raise ValueError(
            f"in training mode it returns {type(logits).__name__}, not a tensor of logits; many networks have an "
            f"option that switches auxiliary outputs off"
        )
    F.cross_entropy(logits.float(), labels).backward()
    if all(parameter.grad is None for parameter in model.parameters()):
        raise ValueError("none of its parameters gets a gradient: they are frozen, or cut off from the loss")
    optimizer_of(model, config.model_copy(update={"learning_rate": LOW_RATE})).step()


def augment_an_image(dataset: Dataset, config: TrainingConfig) -> None:
    """Policies of timm, which has to be there and to know them, on a black image."""
    steps = [step for step in config.augmentation or () if isinstance(step, TimmPolicyConfig)]
    if steps:
        from workloads.data.transforms import transform_of  # here, as torchvision takes seconds to load

        transform_of(steps, dataset.shape, dataset.mean)(torch.zeros(dataset.shape, dtype=torch.uint8))


def store_and_read(model: nn.Module, config: ModelConfig, structure: Structure, dataset: Dataset) -> nn.Module:
    """Write the network as a stage does, and read it again."""
    description = Description(
        model=config.architecture,
        channels=dataset.shape[0],
        classes=len(dataset.classes),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        widths=tuple(group.size for group in structure.groups),
    )
    return checkpoints.loads(checkpoints.dumps(model, description), "the stored network")[0]


def smallest(repair: Repair) -> Repair:
    """The same repair with as little work as can be."""
    if isinstance(repair, str):
        return repair
    few = {"count": IMAGES} if repair.synthetic else {"images": min(IMAGES, int(repair.images))}
    return repair.model_copy(update={**few, "refine": min(1, repair.refine)})


def on_few_images(criterion: ChoiceConfig) -> ChoiceConfig:
    """The same criterion with as few made-up images as are tried with."""
    if criterion.options.get("images") != "synthetic":
        return criterion
    return criterion.model_copy(update={"options": {**criterion.options, "count": IMAGES}})


def check_reaches(grid: PruningConfig, config: ModelConfig, network: Network, sources: Sources) -> None:
    """Make sure that the largest sparsity of weights or multiplications can be reached by what is pruned at a time.

    Raises:
        ValueError: it cannot; names the largest that can.
    """
    shares = [sparsity for sparsity in grid.sparsities if isinstance(sparsity, float)]
    if grid.sparsity_of not in ("weights", "macs") or not shares:
        return
    scope = {name: getattr(grid, name) for name in ScopeConfig.model_fields}
    ignored = left_alone(network.structure, grid.ignore)
    each = [group.number for group in network.structure.groups if group.kind in grid.kinds]
    sets: list[int | tuple[int, ...] | None] = [None]
    if isinstance(grid.groups, tuple):
        sets = [*grid.groups]
    elif grid.groups == "each":
        sets = [number for number in each if number not in ignored]
    for chosen in sets:
        groups = (chosen,) if isinstance(chosen, int) else chosen
        patterns = [name for name in grid.ignore if left_alone(network.structure, [name])]
        wanted = CompressionConfig(**{**scope, "ignore": patterns, "sparsity": max(shares), "groups": groups})
        with explained(f"model '{config.name}', pruning.sparsities"):
            check_reach(network, wanted, sources)


def without_gradient(network: Network, groups: Sequence[Group], sources: Sources) -> list[Group]:
    """The first group, if there is one, that no gradient of the loss reaches: criteria may fail on it alone."""
    weights = [[get_layer(network.model, name).weight for name in group.layers] for group in groups]
    reached: set[torch.Tensor] = set()
    with taking_gradients(network.model), torch.enable_grad():
        for images, labels in made(sources.batches):
            loss = F.cross_entropy(network.model(images).float(), labels)
            reached |= gradients_of(loss, list(itertools.chain(*weights))).keys()
    return [group for group, own in zip(groups, weights, strict=True) if reached.isdisjoint(own)][:1]


def try_grid(
    grid: PruningConfig, config: ModelConfig, network: Network, sources: Sources, dataset: Dataset
) -> nn.Module | None:
    """Rank the smallest group by each criterion, and compress it by each method with each repair.

    A method does not see which criterion ranked the neurons, so their pairs are not all tried.

    Returns:
        What the first method with the first repair made, stored as `metaprune export` stores networks and read again;
        None where no group has several pairings.
    """
    groups = [network.structure.groups[number] for number in grid.named_groups]
    if not groups:
        ignored = left_alone(network.structure, grid.ignore)
        groups = [each for each in network.structure.groups if each.kind in grid.kinds and each.number not in ignored]
    groups = [group for group in groups if group.size > 1]
    if not groups:
        return None
    for method, kind in itertools.product(grid.methods, dict.fromkeys(group.kind for group in groups)):
        check_kind(method.name, method.options, kind)
    group = min(groups, key=lambda group: group.size)
    where = f"group {group.number} of model '{config.name}'"
    check_reaches(grid, config, network, sources)
    asking = [criterion for criterion in grid.criteria if "batches" in CRITERION.plugin(criterion.name).asks]
    cut_off = without_gradient(network, groups, sources) if asking else []
    for criterion in grid.criteria:
        for each in (*(cut_off if criterion in asking else []), group):
            with explained(f"criterion '{criterion.name}' cannot rank group {each.number} of model '{config.name}'"):
                scored = score(network, each.number, on_few_images(criterion), sources)
    made: nn.Module | None = None
    images = sources.shown(None)[0]
    for method, repair in itertools.product(grid.methods, grid.repair):
        with explained(f"method '{method.name}' with repair '{repair_label(repair)}' cannot compress {where}"):
            compression = CompressionConfig(sparsity=0.5, group=group.number, method=method, repair=smallest(repair))
            narrow = compress(network, compression, sources, scored=lambda number, scored=scored: scored)  # type: ignore[misc]
            logits = narrow.model(images)
        if made is None:
            with explained(f"model '{config.name}' cannot be stored with {where} narrowed"):
                made = store_and_read(narrow.model, config, narrow.structure, dataset)
                if not torch.allclose(made(images), logits, rtol=1e-4, atol=1e-5):
                    raise ValueError("read again, it gives other outputs")
    return made
