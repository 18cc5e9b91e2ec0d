"""Cutting the training set."""

import pytest
import torch

from workloads.config import SplitsConfig
from workloads.data.splits import evenly_mixed, samples_of, subset_count, subset_share, subsets

LABELS = torch.arange(240) % 10


@pytest.mark.parametrize(("folds", "models"), [(2, 2), (4, 6), (6, 20)])
def test_unions_of_half_of_the_folds(folds: int, models: int) -> None:
    config = SplitsConfig(folds=folds)
    found = [samples_of(parts) for parts in subsets(LABELS, config, seed=1)]
    assert len(found) == models == subset_count(config)
    assert subset_share(config) == pytest.approx(0.5)
    for subset, complement in zip(found, reversed(found), strict=True):
        assert len(subset) == 120
        assert sorted(subset.tolist() + complement.tolist()) == list(range(240))
        assert torch.equal(LABELS[subset].bincount(), torch.full((10,), 12))
    assert not torch.equal(found[0], samples_of(subsets(LABELS, config, seed=2)[0]))


def test_separate_folds_are_disjoint_and_any_number() -> None:
    config = SplitsConfig(mode="separate", folds=3)
    found = subsets(LABELS, config, seed=0)
    assert len(found) == subset_count(config) == 3
    assert sorted(torch.cat([samples_of(parts) for parts in found]).tolist()) == list(range(240))
    assert [len(samples_of(parts)) for parts in found] == [80, 80, 80]
    assert subset_share(config) == pytest.approx(1 / 3)


@pytest.mark.parametrize("share", [0.6, 0.7])
@pytest.mark.parametrize("folds", [2, 3])
def test_overlapping_stretches_cover_everything(share: float, folds: int) -> None:
    config = SplitsConfig(mode="overlapping", folds=folds, share=share)
    found = [samples_of(parts) for parts in subsets(LABELS, config, seed=0)]
    assert len(found) == subset_count(config) == folds
    assert {len(subset) for subset in found} == {round(240 * share)}
    assert torch.cat(found).unique().tolist() == list(range(240))
    both = set(found[0].tolist()) & set(found[-1].tolist())
    assert len(both) == pytest.approx(240 * (2 * share - 1), abs=1)


def test_every_stretch_has_the_classes_in_proportion() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    mixed = labels[evenly_mixed(labels)]
    for start in range(0, 100, 10):
        assert mixed[start : start + 10].bincount(minlength=3).tolist() == [6, 3, 1]
    plain = subsets(labels, SplitsConfig(stratified=False), seed=3)
    assert labels[samples_of(plain[0])].bincount(minlength=3).tolist() != [30, 15, 5]
