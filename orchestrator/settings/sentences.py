"""What is wrong with settings, in one sentence that names the key, the value and what is allowed."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from workloads.plugins import nearest


def first_problem(error: ValidationError, settings: Mapping[str, Any], model: type[BaseModel]) -> str:
    """The first problem that `model` has with the settings, on one line that names key, value and what is allowed."""
    return " ".join(_sentence(error, settings, model).split())


def _sentence(error: ValidationError, settings: Mapping[str, Any], model: type[BaseModel]) -> str:
    problems = error.errors(include_url=False)
    problem = problems[0]
    location = [
        part for part in problem["loc"] if isinstance(part, int) or not str(part).startswith(("literal[", "tuple["))
    ]
    key = ".".join(_as_written(location, settings))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = _fields(model, location[:-1])
        return f"unknown key '{key}'{nearest(str(location[-1]), allowed)} Allowed: {', '.join(allowed)}{more}"
    if problem["type"] == "missing":
        return f"the key '{key}' is missing{more}"
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not key:
        return f"{reason}{more}"
    if isinstance(problem["input"], Mapping):
        return f"'{key}': {reason}{more}"
    return f"'{key}' is {json.dumps(problem['input'], default=str, ensure_ascii=False)}: it {reason}{more}"


def _as_written(location: list[Any], settings: Any) -> Iterator[str]:
    """A place in the validated experiment as the user wrote it, without the number of an only item."""
    for part in location:
        if part == "models" and isinstance(settings, Mapping) and "model" in settings:
            part = "model"
        if isinstance(part, int) and not isinstance(settings, list):
            continue
        try:
            settings = settings[part]
        except (KeyError, IndexError, TypeError):
            settings = None
        yield str(part)


def _fields(model: type[BaseModel], location: list[Any]) -> list[str]:
    """Names of the settings at a place, as users write them."""
    for part in location:
        if isinstance(part, str):
            model = next(_models(model.model_fields[part].annotation))
    own = model.__annotations__
    names = sorted(model.model_fields, key=lambda name: name not in own)
    return ["model" if name == "models" else name for name in names]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
