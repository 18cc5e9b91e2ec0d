"""The pages of the reference, made from the code whenever the documentation is built.

MkDocs calls `on_files` (see `hooks` in mkdocs.yml). Every page is one function in `PAGES` that returns Markdown, so
that a setting, a column, an option or a command that is added to the code is in the reference by itself.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

import metaprune
from orchestrator.cli import Listing, app, entries
from orchestrator.settings.experiment import Experiment
from orchestrator.settings.reading import built_in, read_text
from orchestrator.storage.schema import SCHEMAS
from workloads.config import CompressionConfig
from workloads.plugins import CRITERION, DATASET, METHOD, MODEL, Plugin

ROOT = Path(__file__).resolve().parents[2]

# What users import besides `metaprune.__all__`, by heading, as `module:name`.
FURTHER_API = {
    "For your own criteria and methods": [
        "workloads.compression.pairings:Pairings",
        "workloads.structure.groups:Maps",
        "workloads.structure.groups:Group",
        "workloads.structure.groups:Member",
        "workloads.structure.groups:Structure",
    ],
    "For your own data sets": ["workloads.data.samples:in_memory", "workloads.data.samples:resize"],
    "Networks in files": ["workloads.networks.checkpoints:load", "orchestrator.export:export_network"],
    "Reports": ["reports.page:write_report", "reports.page:Report"],
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those in `docs/`."""
    for place, make in PAGES.items():
        files.append(File.generated(config, place, content=make()))
    return files


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """A Markdown table; outside of code, `<` and `|` in the cells stand for themselves."""
    names = list(head)
    rows = [names, ["---"] * len(names), *([plain(cell) for cell in row] for row in body)]
    return "\n".join("| " + " | ".join(" ".join(cell.split()) for cell in row) + " |" for row in rows)


def plain(text: str) -> str:
    """Text with what Markdown and HTML would take for their own replaced, but for code in backticks."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("|", "&#124;") for part in parts[::2]]
    return "`".join(parts)


# Settings


def settings() -> str:
    """Every setting of an experiment: its values, its default, what it does."""
    sections = [
        "# Settings",
        "Every setting of an experiment file, made from the code. [The experiment file](../experiment.md) explains how "
        "to write one; `metaprune plan FILE --resolved` prints all settings of yours with their values.",
    ]
    for model, places in models_of(Experiment, "").items():
        title = "The experiment" if model is Experiment else ", ".join(f"`{place}`" for place in places)
        sections += [f"## {title} {{#{model.__name__}}}", inspect.getdoc(model) or "", fields_table(model)]
    sections += [
        "## `CompressionConfig`, from Python {#CompressionConfig}",
        f"{inspect.getdoc(CompressionConfig)} See [Compress one network](../compress-one-network.md).",
        fields_table(CompressionConfig),
    ]
    return "\n\n".join(sections)


def models_of(model: type[BaseModel], place: str) -> dict[type[BaseModel], list[str]]:
    """A model of settings and those inside it, outermost first, each with the places where it stands."""
    found: dict[type[BaseModel], list[str]] = {model: [place] if place else []}
    for name, field in model.model_fields.items():
        inner = f"{place}.{name}" if place else name
        for part in models_in(field.annotation):
            for each, places in models_of(part, inner).items():
                known = found.setdefault(each, [])
                known += [p for p in places if p not in known]
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models of settings that a type names."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = [*getattr(annotation, "__args__", ()), *([annotation.__origin__] if is_annotated(annotation) else [])]
    return list(dict.fromkeys(model for part in inner for model in models_in(part)))


def is_annotated(annotation: Any) -> bool:
    """Whether a type is `Annotated[...]`."""
    return hasattr(annotation, "__metadata__")


def fields_table(model: type[BaseModel]) -> str:
    """The settings of one model."""
    schema = model.model_json_schema()
    body = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else written(field.get_default(call_default_factory=True))
        body.append([f"`{name}`", values(schema["properties"][name]), default, field.description or ""])
    return table(["setting", "values", "default", "meaning"], body)


def values(schema: Mapping[str, Any]) -> str:
    """The values that a part of a JSON schema allows, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{'settings' if name != 'ChoiceConfig' else 'name or settings'}](#{name})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(values(part) for part in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {values(schema['items'])}" if "items" in schema else "list"
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    names |= {"null": "`null`", "object": "mapping"}
    return f"{names.get(kind, kind)}{bounds(schema)}"


def bounds(schema: Mapping[str, Any]) -> str:
    """The bounds of a number, as ` > 0, < 1`."""
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    found = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema and abs(schema[name]) < 2**62]
    return f" {', '.join(found)}" if found else ""


def written(value: Any) -> str:
    """A default as it would stand in YAML."""
    if isinstance(value, BaseModel):
        changed = value.model_dump(exclude_defaults=True)
        return yaml_line(changed) if changed else "its defaults"
    if isinstance(value, tuple) and all(isinstance(item, BaseModel) for item in value) and value:
        names = [getattr(item, "name", None) for item in value]
        return yaml_line(names) if all(names) else "its defaults"
    return yaml_line(list(value) if isinstance(value, tuple) else value)


def yaml_line(value: Any) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return f"`{text.removesuffix('...').strip()}`"


# Tables of a run


def tables() -> str:
    """The columns of every table, with type, unit and meaning."""
    sections = [
        "# Tables",
        "The columns of every table in `RUN/results/`, made from the schemas that metaprune writes Parquet with. The "
        "same meaning and unit stand in each file as field metadata (see "
        "[Reading results](../results.md#meaning-and-unit-of-a-column)).",
    ]
    for name, schema in SCHEMAS.items():
        body = []
        for column in schema:
            metadata = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
            kind = str(column.type).replace("element: ", "").replace("item: ", "")
            body.append([f"`{column.name}`", f"`{kind}`", metadata.get("unit", ""), metadata["meaning"]])
        sections += [f"## `{name}` {{#{name}}}", table(["column", "type", "unit", "meaning"], body)]
    return "\n\n".join(sections)


# What is built in


def built_in_parts() -> str:
    """Criteria, methods, models and data sets with their options and docstrings."""
    sections = [
        "# Criteria, methods, models, data sets",
        "What is built in, made from the code; `metaprune list criteria` and the like print the same in short. "
        "[Extending](../extending.md) shows how to add your own.",
    ]
    kinds = {"Criteria": CRITERION, "Methods": METHOD, "Models": MODEL, "Data sets": DATASET}
    for title, kind in kinds.items():
        sections.append(f"## {title}")
        if kind.given:
            sections.append(f"A {kind.name} is a function of ({', '.join(f'`{name}`' for name in kind.given)}).")
        if kind.offers:
            asked = table(["argument", "what it gets"], [[f"`{name}`", what] for name, what in kind.offers.items()])
            sections.append(f"It may ask for, by naming an argument so:\n\n{asked}")
        for name, function in kind.registered.items():
            sections += [f"### `{name}` {{#{kind.name}-{name}}}", described(Plugin(kind, name, function))]
    return "\n\n".join(sections)


def described(plugin: Plugin) -> str:
    """A function's docstring up to its sections, and a table of its options."""
    text = inspect.getdoc(plugin.function) or ""
    about = text.split("\nArgs:")[0].split("\nReturns:")[0].split("\nRaises:")[0].strip()
    options = {name: p.default for name, p in plugin.own_options.items() if name not in plugin.kind.elsewhere}
    if not options:
        return about
    meanings = arguments_in(text)
    body = [[f"`{name}`", yaml_line(default), meanings.get(name, "")] for name, default in options.items()]
    return f"{about}\n\n{table(['option', 'default', 'meaning'], body)}"


def arguments_in(docstring: str) -> dict[str, str]:
    """What the section `Args` of a docstring says of each argument; several that share a line share its text."""
    _, _, section = docstring.partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if not line.startswith("     "):
            before, _, after = line.strip().partition(": ")
            names = before.split(", ")
            found |= dict.fromkeys(names, after)
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


# Commands


def commands() -> str:
    """The command line: every command with its arguments and options."""
    root = typer.main.get_command(app)
    sections = [
        "# Commands",
        "Made from the command line itself; `metaprune COMMAND --help` prints the same. An option that takes several "
        "values (`...`) takes them after one another: `--set training.epochs=2 seeds=[0,1]`.",
        table(
            ["exit status", "meaning"],
            [
                ["0", "everything is done"],
                ["1", "something failed; what is done is kept"],
                ["2", "bad input, or another driver is at work on the run; nothing was started"],
                ["130", "you stopped it"],
            ],
        ),
    ]
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        sections += [f"## `metaprune {name}` {{#{name}}}", " ".join((command.help or "").split())]
        sections.append(table(["argument or option", "meaning"], map(parameter_row, command.params)))
    return "\n\n".join(sections)


def parameter_row(parameter: Any) -> list[str]:
    """An argument or option of a command, and what it does."""
    metavar = parameter.metavar or ""
    name = metavar or parameter.name.upper()
    if parameter.param_type_name == "option":
        name = f"{parameter.opts[0]} {metavar}".strip()
    elif not metavar and isinstance(parameter.default, Enum):
        name = "|".join(str(choice.value) for choice in type(parameter.default))
    optional = "" if parameter.required or parameter.param_type_name == "option" else " (may be left out)"
    return [f"`{name}`", f"{parameter.help or ''}{optional}"]


# Experiments and exhibits


def experiments() -> str:
    """The built-in experiments as they stand in their files."""
    sections = [
        "# Built-in experiments",
        "`metaprune run NAME` runs one; `metaprune run NAME --set scale=small` runs the same shape in minutes, where "
        "the file lists such a scale. `metaprune list` prints this list.",
    ]
    for name, about in built_in().items():
        text = read_text(name)[0].split("\n", 1)[1]
        sections += [f"## `{name}` {{#{name}}}", about, f"```yaml\n{text.strip()}\n```"]
    return "\n\n".join(sections)


def exhibits() -> str:
    """What a report can show, by id."""
    body = [[f"`{name}`", about] for name, about in entries(Listing.results).items()]
    return "\n\n".join(
        [
            "# Figures and tables of a report",
            "The ids that `metaprune report RUN --only ID ...` takes, made from the report's own catalogue. A figure "
            "or table appears by itself as soon as the run has the data that it needs. Those of the paper need a "
            "[built-in experiment](experiments.md).",
            table(["id", "shows"], body),
        ]
    )


# API


def api() -> str:
    """The public names with their docstrings, which mkdocstrings reads from the source."""
    sections = ["# API", "`from metaprune import ...` gives the names of the first section.", "## `metaprune`"]
    sections += [documented(getattr(metaprune, name)) for name in metaprune.__all__ if not name.startswith("_")]
    for title, identifiers in FURTHER_API.items():
        modules = [identifier.split(":") for identifier in identifiers]
        found = [getattr(importlib.import_module(module), name) for module, name in modules]
        sections += [f"## {title}", *map(documented, found)]
    return "\n\n".join(sections)


def documented(public: Any) -> str:
    """What mkdocstrings makes a section of; of settings only the methods, as a page of its own has the rest."""
    identifier = f"::: {public.__module__}.{public.__qualname__}"
    if not (inspect.isclass(public) and issubclass(public, BaseModel)):
        return identifier
    methods = [name for name, value in vars(public).items() if name[0] != "_" and callable(getattr(public, name, None))]
    own = [name for name in methods if name not in public.model_fields]
    return f"{identifier}\n    options:\n      members: {own}\n\n[All settings](settings.md#{public.__name__})"


def changes() -> str:
    """The changelog, which lies at the root of the repository."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/tables.md": tables,
    "reference/built-in.md": built_in_parts,
    "reference/commands.md": commands,
    "reference/experiments.md": experiments,
    "reference/exhibits.md": exhibits,
    "reference/api.md": api,
    "changes.md": changes,
}
