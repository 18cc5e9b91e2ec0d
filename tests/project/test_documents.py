"""Every code block of the README, the documentation and the examples works as it stands there.

Python runs, page by page in one namespace; a block with a title is a file. YAML is an experiment or a part of one and
is loaded. Commands are parsed against the command line. What takes a real run is slow.
"""

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
import yaml

from metaprune import Experiment, run
from orchestrator.planning.facts import all_plugins
from orchestrator.running.progress import NoProgress
from orchestrator.settings.loader import load_yaml
from tests.project.documents import LANGUAGES, PAGES, ROOT, Block, blocks, check, commands, named_files
from workloads.config import DatasetConfig
from workloads.plugins import CRITERION, METHOD

BASE = {"name": "page", "dataset": {"name": "digits"}, "model": {"name": "vgg11_bn"}}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def needs_a_run(page: Path) -> bool:
    """Whether the Python of a page reads a run or makes one."""
    return any(re.search(r"runs/|\brun\(", block.text) for block in blocks(page, "python"))


def titled(page: Path) -> dict[str, str]:
    return {block.title: block.text for block in blocks(page) if block.title}


SLOW = [page for page in PAGES if needs_a_run(page) or page.stem == "compress-one-network"]
QUICK = [page for page in PAGES if blocks(page, "python") and page not in SLOW]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own to be in, whose modules can be imported and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def quickstart(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the quickstart with few images, epochs and cells."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    result = run(smaller(Experiment.load("quickstart")), out=folder, progress=NoProgress())
    assert result.complete, result.failed
    return folder


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_is_of_a_language_that_is_checked(page: Path) -> None:
    assert {block.place: block.language for block in blocks(page) if block.language not in LANGUAGES} == {}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=named)
def test_every_command_can_be_parsed(page: Path) -> None:
    for block in blocks(page, "console"):
        for words in commands(block):
            try:
                check(words, titled(page))
            except (Exception, SystemExit) as error:
                pytest.fail(f"{block.place}: {' '.join(words)}: {error!r}")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=named)
def test_every_yaml_block_is_an_experiment_or_a_part_of_one(page: Path, folder: Path) -> None:
    write_files(page, folder)
    for block in blocks(page, "yaml"):
        for experiment in experiments(block):
            assert all_plugins(experiment)


def experiments(block: Block) -> Iterator[Experiment]:
    """The experiment of a YAML block, at each of its scales too; a part is completed."""
    settings, text = load_yaml(block.text, block.place), block.text
    if "name" not in settings:
        rest = {key: value for key, value in BASE.items() if key not in settings and key + "s" not in settings}
        text += yaml.safe_dump(rest)
    for scale in (None, *settings.get("scales", {})):
        yield Experiment.from_yaml(text, block.place, [f"scale={scale}"] if scale else [])


@pytest.mark.parametrize("page", QUICK, ids=named)
def test_the_python_of_a_page_runs(page: Path, folder: Path) -> None:
    write_files(page, folder)
    execute(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=named)
def test_the_python_of_a_page_that_takes_longer_runs(page: Path, folder: Path, quickstart: Path) -> None:
    write_files(page, folder)
    make_runs(page, folder, quickstart)
    execute(page)


@pytest.mark.usefixtures("local_ray")
def test_an_experiment_of_ones_own_code_runs_as_the_page_shows_it(folder: Path) -> None:
    write_files(ROOT / "docs" / "extending.md", folder)
    result = run("all-mine.yaml", out=folder / "run", progress=NoProgress())
    assert result.complete, result.failed
    from metaprune import load

    frame = load(folder / "run")
    assert frame[frame["final"]]["method"].tolist() == ["conventional", "average_neighbours"]
    assert set(frame["criterion"].dropna()) == {"biggest_bias"}
    assert set(frame["dataset"]) == {"stripes"}


def write_files(page: Path, folder: Path) -> None:
    """The files that a page shows; Python among them can be imported."""
    for name, text in titled(page).items():
        (folder / name).write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    for name in titled(page):
        if name.endswith(".py"):
            importlib.import_module(name.removesuffix(".py"))


def make_runs(page: Path, folder: Path, quickstart: Path) -> None:
    """The runs that a page's Python reads, and its experiments made small, so that it runs these itself."""
    (folder / "runs").mkdir()
    (folder / "runs" / "quickstart").symlink_to(quickstart)
    for name in titled(page):
        if name.endswith(".yaml"):
            Path(name).write_text(smaller(Experiment.load(name)).to_yaml(), encoding="utf-8")


def smaller(experiment: Experiment) -> Experiment:
    """The same experiment with few images, epochs and cells."""
    few = {"epochs": 1, "batch_size": 50}
    return experiment.model_copy(
        update={
            "dataset": DatasetConfig(name="digits", size=32, train_samples=200, test_samples=60),
            "models": tuple(m.model_copy(update={"width": 0.125}) for m in experiment.models[:1]),
            "training": experiment.training.model_copy(update={**few, "epochs": 2}),
            "fine_tuning": experiment.fine_tuning.model_copy(update={**few, "step_epochs": 0}),
            "pruning": tuple(
                grid.model_copy(
                    update={
                        "groups": (0, 1) if grid.groups == "each" else grid.groups,
                        "sparsities": grid.sparsities[:2],
                        "steps": 1,
                    }
                )
                for grid in experiment.pruning
            ),
        }
    )


def execute(page: Path) -> None:
    """Run the Python blocks of a page, one after the other, in one namespace."""
    names: dict[str, Any] = {"__name__": "__page__"}
    matplotlib.use("Agg")
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        stack.callback(importlib.import_module("matplotlib.pyplot").close, "all")
        for block in blocks(page, "python"):
            if not block.title:
                # With blank lines before it, so that a traceback names the line of the page.
                exec(compile("\n" * (block.line - 1) + block.text, block.place, "exec"), names)


def test_extending_says_all_that_own_functions_may_ask_for() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for kind in (CRITERION, METHOD):
        section = text.partition(f"## A {kind.name}\n")[2].partition("\n## ")[0]
        named = {
            name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
        }
        assert named == set(kind.offers)
        assert f"`({', '.join(kind.given)})`" in section


def test_the_readme_is_short_enough_to_be_read() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) < 900
    assert len(text.split()) < 900


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_of_the_repository_that_a_page_names_is_there(page: Path) -> None:
    named = list(named_files(page))
    assert [path for path, _ in named if not (ROOT / path).exists()] == []
    assert [f"{path}: {name}" for path, name in named if name and name not in (ROOT / path).read_text()] == []


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    mkdocs = pytest.importorskip("mkdocs.commands.build", reason='needs python -m pip install -e ".[docs]"')
    from mkdocs.config import load_config

    mkdocs.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    settings = (tmp_path / "site" / "reference" / "settings.html").read_text(encoding="utf-8")
    assert all(f">{name}</code>" in settings for name in Experiment.model_fields)
    outside = re.findall(r'(?:src|href)="(https?://[^"]+)"[^>]*(?:rel="stylesheet"|></script>)', settings)
    assert outside == []
