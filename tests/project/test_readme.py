"""The README's examples, as they stand there."""

import re
import sys
from pathlib import Path

import pytest
import torch

from orchestrator import Experiment, run
from orchestrator.running.progress import NoProgress
from reports import load

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("local_ray")
def test_the_readmes_own_code_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
    (own,) = [text for language, text in blocks if language == "python" and text.startswith("# mine.py")]
    examples = [text for language, text in blocks if language == "yaml"]
    (tmp_path / "mine.py").write_text(own)
    for number, text in enumerate(examples):
        (tmp_path / f"{number}.yaml").write_text(text)
    assert [Experiment.load(tmp_path / f"{n}.yaml").name for n in range(2)] == ["my-grid", "all-mine"]

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    result = run(tmp_path / "1.yaml", out=tmp_path / "run", progress=NoProgress())
    assert result.complete, result.failed
    frame = load(tmp_path / "run")
    assert frame[frame["final"]]["method"].tolist() == ["conventional", "average_neighbours"]
    assert set(frame["criterion"].dropna()) == {"biggest_bias"}
    assert set(frame["dataset"]) == {"stripes"}


def test_the_readmes_compression_without_the_orchestrator_works() -> None:
    (code,) = re.findall(r"```python\n(import torch\nimport torchvision\n.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["smaller"](torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
    sizes = [sum(p.numel() for p in names[model].parameters()) for model in ("smaller", "model")]
    assert sizes[0] < 0.5 * sizes[1]
