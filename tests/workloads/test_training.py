import copy

import pytest
import torch
from torch import nn

from workloads.compression.compress import Sources, compress
from workloads.compression.methods import maps
from workloads.compression.pairings import Pairings
from workloads.config import CompressionConfig, FineTuningConfig, ModelConfig, TrainingConfig
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import parameter_count
from workloads.networks import checkpoints, weights
from workloads.networks.checkpoints import Description
from workloads.networks.models import build
from workloads.structure.batch_norm import merge_batch_norm
from workloads.structure.finding import trace
from workloads.structure.groups import apply
from workloads.structure.layers import is_empty
from workloads.structure.network import Network
from workloads.training.loop import train
from workloads.training.objectives import Distillation
from workloads.training.optimizers import learning_rate
from workloads.training.snapshots import Snapshot

MODEL = ModelConfig(name="vgg11_bn", width=0.125)


def test_published_schedule() -> None:
    config = TrainingConfig()
    rates = [learning_rate(config, epoch * 10, 10) for epoch in (0, 29, 30, 60, 299)]
    assert rates == [0.05, 0.05, 0.025, 0.0125, 0.05 * 0.5**9]


def test_one_cycle_rises_to_its_peak_and_ends_at_zero() -> None:
    config = TrainingConfig(schedule="one-cycle", epochs=10, learning_rate=0.4)
    rates = [learning_rate(config, step, 10) for step in range(100)]
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == 29
    assert rates[-1] == 0


def test_training_learns_and_repeats_itself(digits: Dataset) -> None:
    config = TrainingConfig(epochs=5, batch_size=25, schedule="one-cycle", nesterov=True)
    accuracies = []
    for _ in range(2):
        model = build(MODEL, channels=1, classes=10, seed=3)
        history = train(model, digits, config, seed=3, augmentation=("crop",))
        accuracies.append([epoch.test.accuracy for epoch in history if epoch.test])
    assert accuracies[0] == accuracies[1]
    assert accuracies[0][-1] > 70
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5]
    assert history[-1].train_loss < history[0].train_loss


def test_dropout_draws_from_the_seed_and_leaves_the_global_state(digits: Dataset) -> None:
    losses = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        model = nn.Sequential(build(MODEL, channels=1, classes=10), nn.Dropout(0.5))
        history = train(model, digits, TrainingConfig(epochs=1, batch_size=50), seed=5)
        losses.append(history[-1].train_loss)
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]


def test_a_last_batch_of_one_image_is_left_out(digits: Dataset) -> None:
    seen = []
    model = build(MODEL, channels=1, classes=10)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    train(model, digits, TrainingConfig(epochs=1, batch_size=16), seed=0, indices=digits.train_pool[:33])
    assert seen == [16, 16]


def test_training_touches_only_the_given_samples(digits: Dataset) -> None:
    seen = []
    model = build(MODEL, channels=1, classes=10)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    train(model, digits, TrainingConfig(epochs=1, batch_size=32), seed=0, indices=digits.train_pool[:50])
    assert seen == [32, 18]


def test_divergence_is_an_error_with_the_epoch(digits: Dataset) -> None:
    config = TrainingConfig(epochs=3, batch_size=50, learning_rate=1e30, schedule="constant", precision="float32")
    with pytest.raises(FloatingPointError, match=r"training diverged in epoch \d"):
        train(build(MODEL, channels=1, classes=10), digits, config, seed=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_that_goes_on_from_a_snapshot_ends_the_same(digits: Dataset, precision: str) -> None:
    def network() -> nn.Module:
        layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(128, 10))

    config = TrainingConfig(epochs=4, batch_size=50, schedule="one-cycle", precision=precision, nesterov=True)
    calm, resumed = network(), network()
    snapshots: list[Snapshot] = []
    undisturbed = train(calm, digits, config, seed=3, snapshot_every=1, on_snapshot=snapshots.append)
    assert [len(snapshot.history) for snapshot in snapshots] == [1, 2, 3]
    with torch.random.fork_rng():
        torch.manual_seed(77)
        later = train(resumed, digits, config, seed=3, start=Snapshot.loads(snapshots[1].dumps()))
    for name, tensor in calm.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [(e.epoch, e.train_loss, e.test.loss) for e in later] == [
        (e.epoch, e.train_loss, e.test.loss) for e in undisturbed
    ]


def test_a_damaged_snapshot_is_told(digits: Dataset) -> None:
    snapshots: list[Snapshot] = []
    config = TrainingConfig(epochs=2, batch_size=50)
    train(build(MODEL, channels=1, classes=10), digits, config, seed=0, snapshot_every=1, on_snapshot=snapshots.append)
    content = snapshots[0].dumps()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for broken in (b"", content[: len(content) // 2], b"x" * 100, flipped):
        with pytest.raises(ValueError, match="not the snapshot of a training, or it is damaged"):
            Snapshot.loads(broken)


def described(model: nn.Module) -> bytes:
    description = Description(
        MODEL.model_dump(mode="json", exclude={"checkpoint"}), 1, 10, parameter_count(model), (8,)
    )
    return checkpoints.dumps(model, description)


def test_a_pruned_network_comes_back_from_its_bytes(vgg: nn.Module) -> None:
    images = torch.randn(4, 1, 32, 32)
    structure = trace(vgg, images[:1])
    merge_batch_norm(vgg, structure)
    for group in structure.groups:
        apply(vgg, group, maps("intra-fusion", Pairings(vgg, group), torch.rand(group.size), group.size // 2))
    loaded, description = checkpoints.loads(described(vgg), "memory")
    assert torch.equal(loaded(images), vgg(images))
    assert description.widths == (8,)
    assert [g.size for g in trace(loaded, images[:1]).groups] == [g.size // 2 for g in structure.groups]


def test_a_network_is_loaded_from_its_file_in_one_call(tmp_path, vgg: nn.Module) -> None:
    (tmp_path / "a.safetensors").write_bytes(described(vgg))
    loaded = checkpoints.load(tmp_path / "a.safetensors")
    images = torch.randn(4, 1, 32, 32)
    assert torch.equal(loaded(images), vgg(images))
    assert not loaded.training
    with pytest.raises(FileNotFoundError, match=r"network file '.*none' does not exist"):
        checkpoints.load(tmp_path / "none")
    (tmp_path / "bad").write_bytes(described(vgg)[:-1])
    with pytest.raises(ValueError, match=r"'.*bad' is not a network that metaprune stored, or it is damaged"):
        checkpoints.load(str(tmp_path / "bad"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_damaged_networks_are_refused(vgg: nn.Module, damage: str) -> None:
    content = described(vgg)
    flipped = bytearray(content)
    flipped[-9] ^= 1
    damaged = {"truncated": content[:-100], "flipped": bytes(flipped), "foreign": b"x" * 50, "empty": b""}[damage]
    with pytest.raises(ValueError, match=r"'here' (is not a network|does not match its checksum)"):
        checkpoints.loads(damaged, "here")


def test_published_state_dicts_load_in_half_precision(tmp_path, vgg: nn.Module) -> None:
    from safetensors.torch import save_file

    half = {name: t.half() if t.is_floating_point() else t for name, t in vgg.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    state = weights.read_state(tmp_path / "half.safetensors")
    fresh = build(MODEL, channels=1, classes=10)
    checkpoints.load_state(fresh, state, "half")
    assert fresh.classifier.weight.dtype == torch.float32
    torch.testing.assert_close(fresh.classifier.weight, vgg.classifier.weight, rtol=1e-3, atol=1e-3)

    other = build(ModelConfig(name="resnet18", width=0.125), channels=1, classes=10)
    with pytest.raises(ValueError, match=r"model.checkpoint 'half' does not fit the model: it lacks bn1"):
        checkpoints.load_state(other, state, "half")
    (tmp_path / "bad.safetensors").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="not a safetensors file"):
        weights.read_state(tmp_path / "bad.safetensors")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        weights.read_state(tmp_path / "none.safetensors")


def test_one_image_is_not_enough(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="at least two images"):
        train(build(MODEL, channels=1, classes=10), digits, TrainingConfig(epochs=1), seed=0, indices=torch.tensor([3]))


def distilled(digits: Dataset, **settings: object) -> tuple[nn.Module, nn.Module]:
    """A teacher, and a pruned copy of it that has learnt its answers on 100 images."""
    example = torch.zeros(1, 1, 32, 32)
    torch.manual_seed(0)
    teacher = build(MODEL, channels=1, classes=10, seed=3)
    train(teacher, digits, TrainingConfig(epochs=2, batch_size=25, schedule="one-cycle"), seed=3, augmentation=())
    network = Network.prepared(teacher, example)
    student = compress(network, CompressionConfig(sparsity=0.3), Sources(example)).model
    config = FineTuningConfig(
        objective="distillation", epochs=4, batch_size=25, learning_rate=0.002, schedule="constant", **settings
    )
    taught = copy.deepcopy(student)
    pool = digits.train_pool[:100]
    kept: list[Snapshot] = []
    args = {"seed": 1, "indices": pool, "augmentation": (), "objective": Distillation([teacher], config)}
    train(taught, digits, config, **args, snapshot_every=2, on_snapshot=kept.append)
    again = copy.deepcopy(student)
    train(again, digits, config, **args, start=Snapshot.loads(kept[0].dumps()))
    assert all(map(torch.equal, taught.parameters(), again.parameters()))
    images = torch.cat([images for images, _ in digits.batches("train", 100, torch.device("cpu"), pool)])

    def distance(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(images) - teacher.eval()(images)).square().mean())

    assert distance(taught) < 0.6 * distance(student)
    return student, taught


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"features": 10.0}, {"labels": 0.5, "temperature": 4.0}])
def test_distillation_brings_the_answers_near_the_teachers_and_goes_on_from_snapshots(
    digits: Dataset, settings: dict[str, float]
) -> None:
    student, taught = distilled(digits, **settings)
    norms = [module for module in taught.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(map(is_empty, norms))  # they stay merged
    assert all(parameter.requires_grad for parameter in taught.parameters())
    assert student.state_dict().keys() == taught.state_dict().keys()


@torch.no_grad()
def test_distillation_looks_at_labels_only_where_these_are_mixed_in() -> None:
    model, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).eval() for _ in range(2))
    images, labels = torch.randn(6, 3, 2, 2), torch.arange(6)
    losses = {}
    for weight in (0.0, 0.25, 1.0):
        objective = Distillation([teacher], FineTuningConfig(objective="distillation", labels=weight))
        losses[weight] = [float(objective.loss(model, images, each)[1]) for each in (labels, labels + 1)]
    assert losses[0.0][0] == losses[0.0][1]
    assert losses[1.0][0] == pytest.approx(float(nn.functional.cross_entropy(model(images), labels)))
    assert losses[0.25][0] == pytest.approx(0.75 * losses[0.0][0] + 0.25 * losses[1.0][0])
    same = Distillation([model], FineTuningConfig(objective="distillation", features=1.0))
    assert float(same.loss(model, images, labels)[1]) == pytest.approx(0, abs=1e-6)
    both = Distillation([model, teacher], FineTuningConfig(objective="distillation"))
    mean = torch.stack([(each(images) / 2).softmax(1) for each in (model, teacher)]).mean(0)
    reached = (model(images) / 2).log_softmax(1)
    expected = 4 * (mean * (mean.log() - reached)).sum(1).mean()
    assert float(both.loss(model, images, labels)[1]) == pytest.approx(float(expected), rel=1e-5)


def test_settings_of_distillation_need_it() -> None:
    with pytest.raises(ValueError, match="temperature and labels belong to objective: distillation"):
        FineTuningConfig(temperature=4, labels=0.5)
    label = FineTuningConfig(objective="distillation", labels=0.5, epochs=3).objective_label
    assert label == "distillation(labels=0.5)"
