"""Networks of one shape share one measured time in a run."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from orchestrator.storage.schema import SCHEMAS
from orchestrator.storage.store import Store
from orchestrator.worker import latencies as module
from workloads.config import ModelConfig
from workloads.networks.checkpoints import Description
from workloads.networks.models import build

SHAPE = (1, 32, 32)


def network(width: float = 0.0625, seed: int = 0) -> tuple[torch.nn.Module, Description]:
    config = ModelConfig(name="vgg11_bn", width=width)
    model = build(config, channels=1, classes=10, seed=seed)
    return model, Description(model=config.model_dump(), channels=1, classes=10, parameters=1, widths=())


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each call were another worker's."""
    monkeypatch.setattr(module, "_known", {})


def test_a_shape_is_measured_once_in_a_run_whatever_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    first = module.latencies(store, *network(seed=0), SHAPE)
    monkeypatch.setattr(module, "_known", {})
    monkeypatch.setattr(module, "latency", lambda *given: pytest.fail("measured again"))
    assert module.latencies(store, *network(seed=1), SHAPE) == first
    assert set(first) <= set(SCHEMAS["evaluations"].names)
    for batch in module.BATCHES:
        low, middle, high = (first[f"latency_{batch}{end}"] for end in ("_low", "", "_high"))
        assert 0 < low <= middle <= high


def test_other_widths_images_and_threads_are_other_shapes(tmp_path: Path) -> None:
    def key(width: float = 0.0625, shape: tuple[int, int, int] = SHAPE, device: str = "a") -> str:
        return module.shape_key(*network(width), shape, device)

    keys = {key(), key(0.125), key(shape=(1, 28, 28)), key(device="b")}
    torch.set_num_threads(2)
    keys.add(key())
    torch.set_num_threads(1)
    assert len(keys) == 5
    assert key() in keys


def test_a_damaged_measurement_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = module.latencies(store, *network(), SHAPE)
    (file,) = (tmp_path / module.FOLDER).iterdir()
    file.write_text("{")
    assert module.shared(store, file.stem) is None
    assert module.measured(store, file.stem, network()[0], SHAPE).keys() == found.keys() - {"device"}


def test_of_workers_that_measure_at_a_time_all_take_the_first_ones_result(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def tried(number: int) -> int:
        store.write_once(json.dumps(number).encode(), "place", "file.json")
        return int(json.loads(store.read("place", "file.json")))

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(tried, range(64)))
    assert len(found) == 1
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["file.json"]
