"""Settings as users write them: built-in and own YAML files, scales, `key=value` changes, and what is wrong."""

import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator.settings.loader import load_yaml
from workloads.plugins import nearest


def make_importable(source: str | Path) -> None:
    """Let the user's own modules be found beside the experiment's file and then in the current folder.

    So an experiment gives the same results from whichever folder it is started.
    """
    for folder in (Path(source).absolute().parent, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def built_in() -> dict[str, str]:
    """Names of the experiments that come with metaprune, with the comment on their first line."""
    folder = resources.files("orchestrator") / "experiments"
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            first = entry.read_text(encoding="utf-8").partition("\n")[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ")
    return found


def read_text(source: str | Path) -> tuple[str, str]:
    """The YAML of a built-in experiment or a file, and what to call it in errors.

    Raises:
        FileNotFoundError: no such built-in name or file.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise FileNotFoundError(f"experiment file '{path}' does not exist")
        try:
            text, origin = path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise ValueError(f"experiment file '{path}' is not a text in UTF-8 ({error.reason})") from error
    elif str(source) in built_in():
        text, origin = (
            (resources.files("orchestrator") / "experiments" / f"{source}.yaml").read_text("utf-8"),
            str(source),
        )
    else:
        names = built_in()
        raise FileNotFoundError(
            f"no built-in experiment '{source}'{nearest(str(source), names)} "
            f"Built in: {', '.join(names)}; your own is given as a path that ends in .yaml"
        )
    return text, origin


def read_settings(text: str, origin: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The settings that YAML holds, at the scale and with the changes that `key=value` overrides ask for.

    Raises:
        ValueError: one sentence that names the place.
    """
    settings = _settings(text, origin)
    changes = [_change(override) for override in overrides]
    _scale(settings, dict(changes).get("scale"), origin)
    for key, value in changes:
        if key != "scale":
            _set(settings, key, value, f"--set {key}")
    return settings


def _settings(text: str, origin: str) -> dict[str, Any]:
    settings = load_yaml(text, origin)
    if not isinstance(settings, dict):
        raise ValueError(f"{origin} must be a mapping of settings such as name, dataset and model")
    return settings


def _change(override: str) -> tuple[str, Any]:
    """Key and value of `key=value`."""
    key, equals, text = override.partition("=")
    override = " ".join(override.split())
    if not equals or not key.strip():
        raise ValueError(f"--set {override}: write key=value, for instance --set training.epochs=10")
    return key.strip(), load_yaml(text, f"--set {override}: the value")


def _scale(settings: dict[str, Any], scale: Any, origin: str) -> None:
    """Make the changes that the file lists under `scales` for this scale; none for None."""
    scales = settings.pop("scales", {})
    if not isinstance(scales, Mapping) or not all(isinstance(changes, Mapping) for changes in scales.values()):
        raise ValueError(f"{origin}: 'scales' maps names such as small to changes, keys with dots as for --set")
    if scale is None:
        return
    if not scales:
        raise ValueError(f"{origin} has no scales: leave --set scale={scale} out")
    if str(scale) not in scales:
        raise ValueError(f"{origin} has no scale '{scale}'{nearest(str(scale), scales)} It has: {', '.join(scales)}")
    settings["name"] = f"{settings.get('name')}-{scale}"
    for key, value in scales[str(scale)].items():
        _set(settings, str(key), value, f"{origin}: scales.{scale}.{key}")


def _set(settings: dict[str, Any], key: str, value: Any, place: str) -> None:
    path = key.split(".")
    if path[0] in ("model", "models") and path[0] not in settings and {"model", "models"} & settings.keys():
        path[0] = "models" if path[0] == "model" else "model"
    _assign(settings, path, value, place)


def _assign(target: Any, path: list[str], value: Any, place: str) -> None:
    first, rest = path[0], path[1:]
    if isinstance(target, list):
        if not first.isdigit():
            for item in target:
                _assign(item, path, value, place)
        elif int(first) >= len(target):
            raise ValueError(f"{place}: the list has {len(target)} items, numbered from 0")
        elif rest:
            _assign(target[int(first)], rest, value, place)
        else:
            target[int(first)] = value
    elif isinstance(target, dict):
        if rest:
            if target.get(first) is None:
                target[first] = {}
            _assign(target[first], rest, value, place)
        else:
            target[first] = value
    else:
        raise ValueError(f"{place}: '{target}' has no setting '{first}'")
