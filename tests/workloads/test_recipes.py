"""Recipes: optimizers, schedules, mixed and augmented images, averages of weights, and presets."""

import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from workloads.config import FineTuningConfig, TrainingConfig
from workloads.data.samples import Dataset
from workloads.data.transforms import ImageByImage, mixing, transform_of
from workloads.measuring.evaluation import evaluate
from workloads.training import train
from workloads.training.optimizers import average_of, learning_rate, optimizer_of
from workloads.training.snapshots import Snapshot


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Nothing is loaded by other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(norm: bool = True) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, stride=2), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.1 * norm), nn.Linear(128, 10))


EVERYTHING: dict[str, Any] = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_epochs": 1,
    "learning_rate": 0.01,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "clip_norm": 1.0,
    "ema": 0.9,
    "accumulation": 2,
    "augmentation": ["resized-crop", "flip", "rand-augment", "erasing"],
}


@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        {"optimizer": "adamw", "ema": 0.8},
        {"optimizer": {"name": "NAdam", "betas": [0.8, 0.9]}, "learning_rate": 0.001},
        {"optimizer": "RMSprop", "learning_rate": 0.001, "mixup": 0.2},
        {"optimizer": "Adafactor", "learning_rate": 0.01, "clip_norm": 0.5},
        {"momentum": 0.0, "cutmix": 1.0, "ema": 0.99},
    ],
)
def test_every_recipe_goes_on_from_snapshots_with_the_same_end(
    digits: Dataset, one_thread: None, settings: dict[str, Any]
) -> None:
    config = TrainingConfig(epochs=3, batch_size=20, evaluate_every=3, **settings)
    pool = digits.train_pool[:70]
    calm, resumed = network(), network()
    snapshots: list[Snapshot] = []
    undisturbed = train(calm, digits, config, seed=3, indices=pool, snapshot_every=1, on_snapshot=snapshots.append)
    with torch.random.fork_rng():
        torch.manual_seed(77)
        later = train(resumed, digits, config, seed=3, indices=pool, start=Snapshot.loads(snapshots[1].dumps()))
    for name, tensor in calm.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [(e.learning_rate, e.train_loss) for e in later] == [(e.learning_rate, e.train_loss) for e in undisturbed]
    last, measured = undisturbed[-1].test, evaluate(calm, digits)
    assert last is not None
    assert last.loss == measured.loss


def test_cosine_rises_linearly_and_falls_along_half_a_period() -> None:
    config = TrainingConfig(schedule="cosine", epochs=10, warmup_epochs=2, learning_rate=0.4)
    rates = [learning_rate(config, step, 10) for step in range(100)]
    assert rates[:3] == pytest.approx([0.02, 0.04, 0.06])
    assert rates[20] == max(rates) == 0.4
    assert rates[60] == pytest.approx(0.2)
    assert 0 < rates[-1] < 0.001
    halving = TrainingConfig(epochs=60, warmup_epochs=1)
    assert [learning_rate(halving, step, 2) for step in (0, 1, 2, 60)] == [0.025, 0.05, 0.05, 0.025]


def test_accumulated_batches_make_the_step_of_all_their_images(digits: Dataset) -> None:
    ends = []
    for size, batches in ((40, 1), (10, 4)):
        model = network(norm=False)
        config = TrainingConfig(epochs=2, batch_size=size, accumulation=batches, precision="float32", clip_norm=0.5)
        train(model, digits, config, seed=0, indices=digits.train_pool[:95], augmentation=())
        ends.append(nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_gradient(digits: Dataset) -> None:
    moved = {}
    for norm in (None, 1e-3):
        model = network(norm=False)
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        config = TrainingConfig(epochs=1, batch_size=50, momentum=0, learning_rate=0.1, clip_norm=norm)
        train(model, digits, config, seed=0, indices=digits.train_pool[:50])
        moved[norm] = float((nn.utils.parameters_to_vector(model.parameters()).detach() - before).norm())
    assert moved[1e-3] == pytest.approx(1e-4, rel=1e-2)
    assert moved[None] > 10 * moved[1e-3]


def test_weight_decay_of_adamw_spares_biases_norms_and_what_the_network_names() -> None:
    class Own(nn.Sequential):
        def no_weight_decay(self) -> set[str]:
            return {"3.weight"}

    model = Own(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    optimizer = optimizer_of(model, TrainingConfig(optimizer="adamw", weight_decay=0.1))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if decays[id(p)] == 0.1} == {"0.weight"}
    assert len(decays) == len(list(model.parameters()))
    sgd = optimizer_of(model, TrainingConfig(weight_decay=0.1))
    assert [group["weight_decay"] for group in sgd.param_groups] == [0.1]


def test_an_average_of_weights_follows_them_and_keeps_indices() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("index", torch.tensor([7, 11]))
    average = average_of(model, 0.75)
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 6)
    assert average.module.index.tolist() == [7, 11]


def test_mixed_labels_are_the_shares_of_the_images() -> None:
    images, labels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8), torch.arange(4)
    for settings in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}):
        mixed = mixing(TrainingConfig(**settings), 4)
        assert mixed is not None
        torch.manual_seed(0)
        seen, shares = mixed(images.clone(), labels)
        assert shares.sum(1).tolist() == pytest.approx([1.0] * 4)
        torch.testing.assert_close(seen.mean((1, 2, 3)), shares @ torch.arange(4.0))


def test_each_image_is_augmented_from_its_own_seed() -> None:
    steps = TrainingConfig(augmentation=EVERYTHING["augmentation"]).augmentation
    assert steps is not None
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    each = ImageByImage(transform_of(steps, (3, 32, 32), (0.5, 0.5, 0.5)), torch.arange(6))
    before = torch.get_rng_state()
    augmented = [each(place, image) for place, image in enumerate(images)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(each(4, images[4]), augmented[4])
    assert {(image.shape, image.dtype) for image in augmented} == {(images[0].shape, torch.uint8)}
    assert not any(torch.equal(image, other) for image, other in zip(images, augmented, strict=True))
    (step,) = TrainingConfig(augmentation=[{"name": "erasing", "probability": 1}]).augmentation or ()
    erasing = transform_of([step], (3, 32, 32), (0.1, 0.5, 0.9))
    changed = erasing(torch.zeros(3, 32, 32, dtype=torch.uint8))
    assert changed.flatten(1).amax(1).tolist() == [26, 128, 230]


@pytest.mark.slow
def test_loader_processes_augment_as_this_one_does(digits: Dataset) -> None:
    losses = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        config = TrainingConfig(epochs=1, batch_size=20, augmentation=["rand-augment"], learning_rate=0.01)
        losses.append(train(network(), digits, config, seed=3, indices=digits.train_pool[:60])[0].train_loss)
    torch.set_num_threads(threads)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_recipe_gives_what_is_not_given() -> None:
    deit = TrainingConfig(recipe="deit")
    assert (deit.optimizer, deit.schedule, deit.warmup_epochs, deit.learning_rate) == ("adamw", "cosine", 5, 0.001)
    assert (deit.mixup, deit.cutmix, deit.label_smoothing, deit.weight_decay) == (0.8, 1.0, 0.1, 0.05)
    own = TrainingConfig(recipe="deit", batch_size=64, accumulation=4, mixup=0.0)
    assert (own.learning_rate, own.mixup, own.cutmix) == (0.00025, 0.0, 1.0)
    assert "recipe" not in own.model_dump()
    assert TrainingConfig(**own.model_dump()) == own
    assert TrainingConfig(recipe="paper") == TrainingConfig()
    tuned = FineTuningConfig(recipe="one-cycle")
    assert (tuned.epochs, tuned.step_epochs, tuned.schedule) == (80, 10, "one-cycle")
    assert TrainingConfig(optimizer={"name": "adamw"}) == TrainingConfig(optimizer="adamw")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"recipe": "timm"}, "recipe is 'timm': it should be 'paper', 'one-cycle' or 'deit'"),
        ({"optimizer": "adam"}, "should be 'sgd', 'adamw', or the name of a class of torch.optim, such as 'NAdam'"),
        ({"optimizer": "adamw", "momentum": 0.8}, "momentum belong to optimizer: sgd; here it is adamw"),
        ({"schedule": "one-cycle", "warmup_epochs": 2}, "warmup_epochs do not go with schedule: one-cycle"),
        ({"recipe": "deit", "epochs": 5}, "warmup_epochs is 5 of 5 epochs: the rate would never fall; give fewer"),
        ({"augmentation": ["cutout"]}, "should be 'flip', 'crop', 'resized-crop', 'rand-augment', 'erasing' or 'timm'"),
        ({"augmentation": [{"name": "flip", "p": 1}]}, "'flip' has no options: leave out p"),
    ],
)
def test_settings_of_recipes_that_cannot_be_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        TrainingConfig(**settings)


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        ("Optimizer", "torch.optim has no optimizer 'Optimizer'"),
        ("Lion", "torch.optim has no optimizer 'Lion'"),
        ({"name": "adamw", "beta": 3}, "optimizer 'adamw' does not take these options: .*'beta'"),
    ],
)
def test_optimizers_that_there_are_not_are_told(optimizer: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        optimizer_of(network(), TrainingConfig(optimizer=optimizer))


@pytest.mark.parametrize("channels", [1, 3])
def test_policies_of_timm_draw_from_the_seed_of_each_image_and_nothing_else_moves(channels: int) -> None:
    pytest.importorskip("timm")
    image = torch.randint(256, (channels, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for policy in ("rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original"):
        config = TrainingConfig(augmentation=["flip", f"timm:{policy}"])
        assert config.model_dump()["augmentation"][1] == {"name": "timm", "policy": policy}
        each = ImageByImage(transform_of(config.augmentation, (channels, 24, 24), [0.5] * channels), torch.arange(12))
        before = random.getstate(), torch.get_rng_state()
        first = [each(place, image) for place in range(12)]
        random.seed(7)
        assert all(torch.equal(each(place, image), made) for place, made in enumerate(first))
        random.setstate(before[0])
        assert torch.equal(torch.get_rng_state(), before[1])
        assert {(made.shape, made.dtype) for made in first} == {(image.shape, torch.uint8)}
        assert sum(not torch.equal(made, image) for made in first) > 4


def test_policies_that_timm_cannot_follow_are_refused_in_a_sentence() -> None:
    pytest.importorskip("timm")
    steps = TrainingConfig(augmentation=["timm:nonsense"]).augmentation
    with pytest.raises(ValueError, match="timm has no augmentation policy 'nonsense'"):
        transform_of(steps, (3, 24, 24), [0.5] * 3)
    with pytest.raises(ValueError, match="one or three channels, but these have 2"):
        transform_of(steps, (2, 24, 24), [0.5] * 2)


def test_without_timm_a_sentence_says_what_its_policies_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(ValueError, match="needs the package timm: python -m pip install timm"):
        transform_of(TrainingConfig(augmentation=["timm:rand-m9"]).augmentation, (3, 24, 24), [0.5] * 3)
