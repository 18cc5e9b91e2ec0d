"""YAML as people mean it: by the core schema of YAML 1.2, and no key twice.

PyYAML follows YAML 1.1, in which 010 is 8, 1:30 is 90, `no` is false, 2026-01-01 is a date and 1e-3 is a text, and lets
the last of several equal keys win.
"""

import re
from typing import Any

import yaml

INTEGER = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")


class DoubledKey(yaml.constructor.ConstructorError):
    """A mapping has a key twice."""


class SettingsLoader(yaml.SafeLoader):
    """Builds plain values alone, as PyYAML's safe loader."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise DoubledKey(None, None, f"the key '{key.value}' stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 0) if text.startswith(("0x", "0o")) else int(text)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(node.value.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


def _boolean(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    return bool(node.value.lower() == "true")


SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first, _constructor in (
    ("int", INTEGER, "-+0123456789", _integer),
    ("float", FLOAT, "-+0123456789.", _float),
    ("bool", BOOLEAN, "tTfF", _boolean),
):
    _name = f"tag:yaml.org,2002:{_tag}"
    SettingsLoader.add_implicit_resolver(_name, re.compile(f"^(?:{_pattern.pattern})$"), list(_first))
    SettingsLoader.add_constructor(_name, _constructor)


def load_yaml(text: str, origin: str) -> Any:
    """The values that a text in YAML holds.

    Args:
        origin: what to call it in errors.

    Raises:
        ValueError: it is not valid, or a mapping has a key twice; names the line.
    """
    try:
        return yaml.load(text, SettingsLoader)  # the loader is a safe one
    except DoubledKey as error:
        raise ValueError(f"{origin}{_line(error)}: {error.problem}") from error
    except yaml.MarkedYAMLError as error:
        reasons = ", ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{origin} is not valid YAML{_line(error)}: {reasons}") from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{origin} is not valid YAML: {error.reason} (character {error.position + 1})") from error
    except RecursionError as error:
        raise ValueError(f"{origin} is not valid YAML: it is nested too deeply") from error


def _line(error: yaml.MarkedYAMLError) -> str:
    """Where it is, for a sentence."""
    return f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
