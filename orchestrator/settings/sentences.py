"""What is wrong with settings, in one sentence that names the key, the value and what is allowed."""

import json
import re
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
    location = [part for part in problem["loc"] if not is_union_tag(part)]
    key = ".".join(_as_written(location, settings))
    # One mistake in what stands for every item of a list, or is none of several types, counts once.
    places = {tuple(p for p in other["loc"] if isinstance(p, str) and not is_union_tag(p)) for other in problems}
    others = len(places) - 1 - sum(any(place == other[: len(place)] for other in places - {place}) for place in places)
    more = f" (and {others} more)" if others > 0 else ""
    if problem["type"] == "extra_forbidden":
        allowed = _fields(model, location[:-1])
        return f"unknown key '{key}'{nearest(str(location[-1]), allowed)} Allowed: {', '.join(allowed)}{more}"
    if problem["type"] == "missing":
        return f"the key '{key}' is missing{more}"
    reason = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    reason = reason.removeprefix("Tuple ").replace("a valid tuple", "a list").removesuffix(" after validation")
    reason = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping of settings", reason)
    reason = re.sub(r" after validation, not (\d+)$", r", not \1", reason)
    if not key:
        return f"{reason}{more}"
    if isinstance(problem["input"], Mapping):
        return f"'{key}': {reason}{more}"
    given = json.dumps(problem["input"], default=str, ensure_ascii=False)
    example = f", such as [{given}]" if reason == "should be a list" else ""
    return f"'{key}' is {given}: it {reason}{example}{more}"


def is_union_tag(part: int | str) -> bool:
    """Whether a part of a location names one of several types that a value may have, not a key."""
    return isinstance(part, str) and part.startswith(("literal[", "tuple[", "function-", "tag-"))


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
