"""Finding a model, data set, criterion or method by its registered name or its import path."""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import sys
import sysconfig
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workloads.messages import first_line

OURS = ("orchestrator", "workloads", "reports")
INSTALLED = frozenset({"site-packages", "dist-packages"})


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: `; did you mean 'l1'?`, or a full stop where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."


def lookup(registry: Mapping[str, Callable[..., Any]], name: str, kind: str) -> Callable[..., Any]:
    """The function registered as `name`, or imported from `package.module:function`.

    Raises:
        ValueError: no such name, module or function; the message lists what there is.
    """
    if name in registry:
        return registry[name]
    if ":" not in name:
        raise ValueError(
            f"unknown {kind} '{name}'{nearest(name, registry)} Known: {', '.join(sorted(registry))}; "
            f"your own is given as file:function"
        )
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"{kind} '{name}': the module cannot be imported ({first_line(error)})") from error
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"{kind} '{name}': module '{module_name}' has no function '{attribute}'")
    return function


def code_version(registry: Mapping[str, Callable[..., Any]], name: str, kind: str) -> str | None:
    """A digest of the module that defines an imported function and of the user's own modules behind it.

    None for registered ones. It enters the keys of stages, so that results of a user's own code are not reused after
    an edit. What is no function or class itself, such as a `functools.partial`, is taken to be defined in the module
    that its name says.
    """
    if name in registry:
        return None
    function = lookup(registry, name, kind)
    named = name.partition(":")[0]
    own = inspect.isroutine(function) or inspect.isclass(function)
    module = inspect.getmodule(function) if own else sys.modules[named]
    assert module is not None
    imported = own_sources([named, module.__name__])
    imported.pop(module.__name__, None)
    text = "".join([inspect.getsource(module), *(imported[name] for name in sorted(imported))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def own_sources(names: Iterable[str]) -> dict[str, str]:
    """Source by name of these modules and of what they import, directly or not, as far as it is the user's own."""
    sources: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = own_file(name)
        if path is not None and name not in sources:
            sources[name] = path.read_text(encoding="utf-8")
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            waiting += imported_names(sources[name], package)
    return sources


def own_file(name: str) -> Path | None:
    """The file of a module, if there is such a module and it is the user's own; imports nothing."""
    first, *others = itertools.accumulate(name.split("."), "{}.{}".format)
    if first in OURS or first in sys.builtin_module_names or first == "__main__":
        return None
    spec = importlib.util.find_spec(first)
    for part in others:
        folders = spec and spec.submodule_search_locations
        spec = PathFinder.find_spec(part, folders) if folders else None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    installed = path.is_relative_to(sysconfig.get_path("stdlib")) or not INSTALLED.isdisjoint(path.parts)
    return None if installed or path.suffix != ".py" else path


def imported_names(source: str, package: str) -> Iterator[str]:
    """What a module's source imports anywhere: modules, packages around them, and names that may be modules."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            yield from itertools.accumulate(name.split("."), "{}.{}".format)


def requires(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument of this name that it cannot do without."""
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def draws(function: Callable[..., Any]) -> bool:
    """Whether a criterion or method depends on a seed: on random numbers, or on which images it is shown."""
    return bool({"generator", "batches", "images"} & inspect.signature(function).parameters.keys())


SET_ELSEWHERE = ("num_classes", "in_channels", "width")
INJECTED = ("batches", "generator", "example", "statistics", "model", "group", "original", "images")


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], where: str, given: Iterable[str] = ()
) -> None:
    """Refuse options that `function` does not take as keyword-only arguments, those it is given anyway left out.

    Args:
        given: names of what it is called with, one after the other.

    Raises:
        ValueError: naming the option, the function's own ones and the nearest of them; or what it has to take.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    if wanted := list(given):
        others = {name: None for name in signature.parameters if name in INJECTED and name not in wanted}
        required = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        try:
            signature.bind(*wanted, **others, **{name: None for name in required if name not in others})
        except TypeError as error:
            raise ValueError(f"{where} has to take ({', '.join(wanted)}), but {error}") from error
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    own = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in INJECTED}
    hints = typing.get_type_hints(function)
    for option, value in options.items():
        if option not in own:
            raise ValueError(
                f"{where} has no option '{option}'{nearest(option, own)} It takes: {', '.join(own) or 'none'}"
            )
        try:
            TypeAdapter(hints.get(option, Any)).validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Input ")
            raise ValueError(f"option '{option}' of {where} is {value!r}: it {reason}") from error
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in options:
            raise ValueError(f"{where} needs its option '{name}'")


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of a criterion, method or model with their defaults; what experiments set elsewhere is left out."""
    parameters = inspect.signature(function).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in {*INJECTED, *SET_ELSEWHERE}]
    return {p.name: None if p.default is p.empty else p.default for p in own}


def summary(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring, for lists."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
