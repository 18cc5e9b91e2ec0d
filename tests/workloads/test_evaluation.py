"""Accuracy, loss, size, multiplications and time of a network."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from orchestrator import Experiment, run
from orchestrator.running.progress import NoProgress
from reports import load
from tests.conftest import TINY
from workloads.config import ModelConfig, TrainingConfig
from workloads.data.samples import Dataset
from workloads.measuring.evaluation import (
    LATENCY_RUNS,
    evaluate,
    evaluate_together,
    fast_batch,
    latency,
    mac_count,
    parameter_count,
)
from workloads.networks.models import build
from workloads.training.loop import train


def test_accuracy_is_over_all_samples(digits: Dataset) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.repeat(len(x), 1)

    model = Constant()
    model.bias.data[4] = 1.0
    labels = digits.test.labels[digits.test_pool]
    expected = 100 * float((labels == 4).float().mean())
    for size in (100, 7, 33):
        measured = evaluate(model, digits, batch_size=size)
        assert measured.accuracy == pytest.approx(expected)
        logits = model.bias.repeat(len(labels), 1)
        assert measured.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_counts_of_the_published_networks() -> None:
    """Against the paper's Table 9: its ResNet18 counts weights alone; its VGG11-BN has two more Linear(512, 512) and no
    biases in its convolutions."""
    resnet = build(ModelConfig(name="resnet18"), channels=3, classes=10)
    weights = [m.weight.numel() for m in resnet.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sum(weights) == 11_164_352
    vgg = build(ModelConfig(name="vgg11_bn"), channels=3, classes=10)
    biases = sum(len(m.bias) for m in vgg.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)
    assert parameter_count(vgg) + 2 * (512 * 512 + 512) - biases == 9_753_674


def test_macs() -> None:
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4, 3))
    assert mac_count(small, (1, 4, 4)) == 2 * 9 * 4 + 8 * 3


def test_latency_is_the_median_of_passes_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fewest, most = LATENCY_RUNS
    for durations, passes in (([9.0, 5.0, 1.0, 2.0], fewest), ([9.0] + [0.001] * most, most)):
        clock = iter(moment for seconds in durations for moment in (0.0, seconds))
        monkeypatch.setattr("workloads.measuring.evaluation.time.perf_counter", lambda clock=clock: next(clock))
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.Dropout())
        seen: list[tuple[torch.Size, bool]] = []
        model.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append((inputs[0].shape, module.training))
        )
        milliseconds = latency(model, (3, 2, 2), 5)
        monkeypatch.undo()
        assert milliseconds == pytest.approx(1000 * (2.0 if passes == fewest else 0.001))
        assert seen == [((5, 3, 2, 2), False)] * (1 + passes)


def test_bfloat16_moves_accuracy_little_and_leaves_the_network(digits: Dataset) -> None:
    model = build(ModelConfig(name="vgg11_bn", width=0.125), channels=1, classes=10)
    train(model, digits, TrainingConfig(epochs=20, batch_size=25, schedule="one-cycle"), seed=0)
    exact, rounded = (evaluate(model, digits, precision=precision) for precision in ("float32", "bfloat16"))
    assert exact.accuracy > 60
    assert rounded.accuracy == pytest.approx(exact.accuracy, abs=2), "two images in 100"
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    both = evaluate_together([model, model], digits, precision="bfloat16")
    assert [replace(measured, seconds=0) for measured in both] == 2 * [replace(rounded, seconds=0)]


def test_the_size_of_batches_changes_nothing_but_rounding(digits: Dataset) -> None:
    model = build(ModelConfig(name="resnet18", width=0.125), channels=1, classes=10)
    small, large = (evaluate(model, digits, batch_size=size) for size in (37, 500))
    assert small.accuracy == large.accuracy
    assert small.loss == pytest.approx(large.loss, rel=1e-6)


def test_pruned_networks_are_measured_as_asked_and_trainings_kept(tmp_path: Path) -> None:
    trained = []
    for precision in ("float32", "bfloat16"):
        settings = {**TINY, "pipelines": ["whole-data", "fap"], "measuring": {"precision": precision}}
        result = run(Experiment.model_validate(settings), out=tmp_path, progress=NoProgress())
        assert result.complete, result.failed
        rows = load(tmp_path, "evaluations")
        measured = rows.groupby("stage")["precision"].unique().map(list)
        assert measured["pruned"] == measured["fused"] == [precision]
        assert measured["baseline"] == ["float32"]
        timings = load(tmp_path, "timings")
        trained.append(timings[timings["kind"] == "train"].set_index("cell")["finished"].to_dict())
    assert trained[0] == trained[1]


def test_outputs_that_are_no_numbers_are_an_error(digits: Dataset, vgg: nn.Module) -> None:
    vgg.classifier.bias.data[3] = float("nan")
    with pytest.raises(FloatingPointError, match="are not numbers"):
        evaluate(vgg, digits)


def test_large_images_are_measured_in_small_batches() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [fast_batch(cpu, (3, size, size)) for size in (8, 32, 224)] == [100, 100, 8]
    assert [fast_batch(gpu, (3, size, size)) for size in (32, 64, 224)] == [500, 125, 10]
