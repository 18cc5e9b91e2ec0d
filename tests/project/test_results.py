"""The claims about the results that come with the project."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def checking() -> Iterator[ModuleType]:
    """The script `results/check.py`, which finds the modules beside it; runs that it has read stay read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RESULTS)
        yield importlib.import_module("check")
        for name in ("check", "claims", "evidence", "tables"):
            del sys.modules[name]


def test_every_claim_and_table_is_as_written(checking: ModuleType) -> None:
    told: list[str] = []
    assert checking.check(told.append), told
    assert len(told) == 86


def test_a_number_that_is_not_in_the_results_is_told(
    checking: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = checking.README.read_text(encoding="utf-8")
    wrong = text.replace("| folding | 84.3 | +0.5 |", "| folding | 94.3 | +0.5 |").replace("82.2 %", "92.2 %")
    (tmp_path / "README.md").write_text(wrong, encoding="utf-8")
    monkeypatch.setattr(checking, "README", tmp_path / "README.md")
    told: list[str] = []
    assert not checking.check(told.append)
    assert sum(line.startswith("BROKEN") for line in told) == 2
