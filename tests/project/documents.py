"""Reading the documents: their fenced blocks, and the commands that stand in these."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from orchestrator.cli import Listing, app, entries, repeated
from orchestrator.export import FOLDER
from orchestrator.settings.experiment import Experiment
from orchestrator.settings.reading import built_in
from workloads.networks.exporting import format_named

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
FLOORS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"runs", "build", "site"}
LANGUAGES = {"python", "yaml", "console", "text"}
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9-]*(:\d+)?")  # such as EXPERIMENT, RUN, HEAD:6379


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the document.
        line: of the document where its text begins.
        language: behind the opening fence.
        title: name of the file that it shows, if it is one.
        text: what stands in it.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str = "") -> list[Block]:
    """The fenced blocks of a document, all or those of one language."""
    document = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(document):
        name, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        line = document.count("\n", 0, match.start("text")) + 1
        text = "".join(part.removeprefix(match["indent"]) for part in match["text"].splitlines(keepends=True))
        found.append(Block(page, line, name, title[1] if title else "", text))
    return [block for block in found if not language or block.language == language]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block; continued lines are joined, `a && b` is two commands."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def check(words: list[str], files: dict[str, str]) -> None:
    """Make sure that a command could run: its program, options, experiments and files exist.

    Args:
        files: content by name of the files that the page shows.

    Raises:
        AssertionError, ValueError, OSError, typer.Exit, click's errors: it could not.
    """
    program, *arguments = words
    checks = {"metaprune": check_metaprune, "python": check_python, "ray": check_ray, "mkdocs": check_mkdocs}
    checks["sbatch"] = check_sbatch
    checks |= dict.fromkeys(("ruff", "mypy"), check_folders)
    assert program in checks, f"nobody checks the program '{program}'"
    checks[program](arguments, files)


def check_metaprune(arguments: list[str], files: dict[str, str]) -> None:
    """Parse the command as the command line does, then look at the values that it checks later."""
    arguments = repeated(arguments)
    root: Any = typer.main.get_command(app)
    name, *rest = arguments
    if name.startswith("-"):
        assert CliRunner().invoke(app, arguments).exit_code == 0
        return
    assert name in root.commands, f"there is no command 'metaprune {name}'"
    parent = root.context_class(root, info_name="metaprune")
    given = root.commands[name].make_context(name, list(rest), parent=parent).params
    if "experiment" in given and not PLACEHOLDER.fullmatch(given["experiment"]):
        load(given["experiment"], given.get("settings") or [], files)
    if name == "export" and given["kind"] != FOLDER:
        format_named(given["kind"])
    if name == "report":
        assert set(given["only"]) <= set(entries(Listing.results)), given["only"]
        assert set(given["formats"]) <= {"png", "pdf", "svg"}, given["formats"]


def load(source: str, settings: list[str], files: dict[str, str]) -> Experiment:
    """A built-in experiment, one that the page shows, or one of the repository."""
    if source in files:
        return Experiment.from_yaml(files[source], source, settings)
    return Experiment.load(source if source in built_in() else ROOT / source, settings)


def check_python(arguments: list[str], files: dict[str, str]) -> None:
    """A script or a module that is there; what pip installs of the project itself is an extra that it has."""
    if arguments[0] != "-m":
        assert arguments[0] in files or (ROOT / arguments[0]).is_file(), arguments[0]
        return
    assert arguments[1] in ("pip", "pytest") or (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").is_file()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(arguments)):
        assert all(re.search(rf"^{name} = \[", project, re.MULTILINE) for name in extra.split(",")), extra


def check_ray(arguments: list[str], files: dict[str, str]) -> None:
    """Parse the command as Ray does, and the metaprune command that it carries."""
    from ray.scripts.scripts import cli

    command: Any = cli
    own, carried = arguments, []
    if "--" in arguments:
        own, carried = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    elif "orchestrator/submit.py" in arguments:
        carried = ["metaprune", *arguments[arguments.index("orchestrator/submit.py") + 1 :]]
    rest = list(own)
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"Ray has no command '{rest[0]}'"
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest + (["--", *carried] if "--" in arguments else []))
    for word in own:
        assert not word.endswith(".yaml") or (ROOT / word).is_file(), word
    if carried:
        check(carried, files)


def check_sbatch(arguments: list[str], files: dict[str, str]) -> None:
    """Options of sbatch's, a script that is there, and the metaprune command that it carries."""
    script = next(place for place, word in enumerate(arguments) if not word.startswith("-"))
    assert (ROOT / arguments[script]).is_file(), arguments[script]
    check_metaprune(arguments[script + 1 :], files)


def check_mkdocs(arguments: list[str], files: dict[str, str]) -> None:
    """One of the two commands that the documents name."""
    assert arguments in (["serve"], ["build", "--strict"]), arguments


def check_folders(arguments: list[str], files: dict[str, str]) -> None:
    """A tool whose last arguments are folders; they are there."""
    folders = [word for word in arguments if not word.startswith("-") and word not in ("check", "format")]
    assert all((ROOT / folder).is_dir() for folder in folders), folders


def named_files(page: Path) -> Iterator[tuple[str, str]]:
    """Files and folders of the repository that the prose of a page names in code, each with a name in it, if given.

    `workloads/config.py` is one, `workloads/structure/groups.py: apply` another with a name.
    """
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for path, name in re.findall(r"`([\w.-]+(?:/[\w.-]*)+)(?:: (\w+))?`", prose):
        if path.split("/")[0] in FLOORS:
            yield path, name
