"""One network trained by two processes, beside the same training by one."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import spawn

from workloads.config import TrainingConfig
from workloads.data.samples import Dataset
from workloads.training import train
from workloads.training.parallel import ALONE, Rank, process_group
from workloads.training.snapshots import Epoch, Snapshot

RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"nesterov": True, "accumulation": 2, "clip_norm": 1.0, "learning_rate": 0.05},
    "adamw": {
        "optimizer": "adamw",
        "learning_rate": 0.005,
        "mixup": 0.8,
        "cutmix": 1.0,
        "ema": 0.8,
        "augmentation": ["flip", "rand-augment"],
    },
}
IMAGES = 46  # in batches of 15: an odd number for two, and a last one of a single image, which is left out


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # Without a bias before batch-norm: its gradient is rounding alone, which AdamW makes as large as any other.
        first = [nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        return nn.Sequential(*first, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))


def learnt(dataset: Dataset, recipe: str, rank: Rank, **further: Any) -> tuple[dict[str, Tensor], list[Epoch]]:
    config = TrainingConfig(epochs=2, batch_size=15, precision="float32", **{"schedule": "cosine"} | RECIPES[recipe])
    model, pool = network(), dataset.train_pool[:IMAGES]
    history = train(model, dataset, config, seed=3, indices=pool, rank=rank, augmentation=("crop",), **further)
    return model.state_dict(), history


def member(number: int, dataset: Dataset, folder: Path) -> None:
    """What each of the two processes does; it leaves what it learnt, and snapshots."""
    torch.set_num_threads(1)
    snapshots: list[Snapshot] = []
    with process_group(FileStore(str(folder / "meeting"), 2), number, 2, torch.device("cpu")) as rank:
        found = {
            recipe: learnt(dataset, recipe, rank, snapshot_every=1, on_snapshot=snapshots.append) for recipe in RECIPES
        }
        resumed = learnt(dataset, "adamw", rank, start=snapshots[1] if rank.leads else None)
    if not rank.leads:
        assert snapshots == []
        assert all(epoch.test is None for _, history in found.values() for epoch in history)
    content = {f"{recipe}.{name}": tensor for recipe, (state, _) in found.items() for name, tensor in state.items()}
    content |= {f"resumed.{name}": tensor for name, tensor in resumed[0].items()}
    torch.save(content, folder / f"{number}.pt")
    if rank.leads:
        (folder / "snapshot").write_bytes(snapshots[1].dumps())
        values = [[(e.train_loss, e.train_accuracy, e.test.loss) for e in history] for _, history in found.values()]
        torch.save(torch.tensor(values, dtype=torch.float64), folder / "epochs.pt")


def test_two_processes_learn_what_one_does(digits: Dataset, tmp_path: Path) -> None:
    spawn(member, (digits, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    epochs = torch.load(tmp_path / "epochs.pt")
    for number, recipe in enumerate(RECIPES):
        state, history = learnt(digits, recipe, ALONE)
        for name, tensor in state.items():
            torch.testing.assert_close(first[f"{recipe}.{name}"], tensor, atol=2e-5, rtol=1e-4)
            assert torch.equal(first[f"{recipe}.{name}"], second[f"{recipe}.{name}"]), "all have the same network"
        alone = [(epoch.train_loss, epoch.train_accuracy, epoch.test.loss) for epoch in history]
        torch.testing.assert_close(epochs[number], torch.tensor(alone, dtype=torch.float64), atol=1e-4, rtol=1e-4)
    snapshot = Snapshot.loads((tmp_path / "snapshot").read_bytes())
    further, _ = learnt(digits, "adamw", ALONE, start=snapshot)
    for name, tensor in further.items():
        assert torch.equal(first[f"resumed.{name}"], first[f"adamw.{name}"]), "two go on from their own snapshot"
        torch.testing.assert_close(tensor, first[f"adamw.{name}"], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("images", "size", "count"), [(46, 15, 2), (45, 15, 4), (32, 15, 3), (7, 3, 3)])
def test_every_image_of_a_batch_is_learnt_by_one_process_or_by_all(
    images: int, size: int, count: int, mixed: bool
) -> None:
    shares = [Rank(number, count).rows(images, size, mixed=mixed) for number in range(count)]
    for batch in zip(*shares, strict=True):
        whole = torch.arange(batch[0].count)
        assert {rows.count for rows in batch} == {len(whole)}
        if len(whole) < count:
            assert all(torch.equal(rows.own, whole) for rows in batch)
            continue
        own = [rows.own[1:] if mixed else rows.own for rows in batch]
        assert torch.equal(torch.cat(own), whole)
        if mixed:
            assert [int(rows.own[0]) for rows in batch] == [(int(part[0]) - 1) % len(whole) for part in own]
    assert sum(batch.count for batch in shares[0]) == images


def test_a_process_that_is_alone_changes_nothing_of_the_order() -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(5)
        before = torch.get_rng_state()
        ALONE.draw_alike()
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.cat([rows.start + rows.own for rows in ALONE.rows(46, 15, mixed=True)]).tolist() == list(range(46))
