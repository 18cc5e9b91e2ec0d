"""Finding a model, data set, criterion or method by its registered name or its import path."""

import difflib
import hashlib
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'l1'?`, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


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
            f"your own is given as package.module:function"
        )
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{kind} '{name}': the module cannot be imported ({reason})") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"{kind} '{name}': module '{module_name}' has no function '{attribute}'")
    return function


def code_version(registry: Mapping[str, Callable[..., Any]], name: str, kind: str) -> str | None:
    """A digest of the module that defines an imported function; None for registered ones.

    It enters the keys of stages, so that results of a user's own code are not reused after an edit. What is no function
    or class itself, such as a `functools.partial`, is taken to be defined in the module that its name says.
    """
    if name in registry:
        return None
    function = lookup(registry, name, kind)
    own = inspect.isroutine(function) or inspect.isclass(function)
    module = inspect.getmodule(function) if own else sys.modules[name.partition(":")[0]]
    assert module is not None
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]


def draws(function: Callable[..., Any]) -> bool:
    """Whether a criterion or method depends on a seed: on random numbers, or on which images it is shown."""
    return bool({"generator", "batches", "images"} & inspect.signature(function).parameters.keys())


INJECTED = ("batches", "generator", "example", "statistics", "model", "group", "original", "images")


def check_options(function: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Refuse options that `function` does not take as keyword-only arguments, those it is given anyway left out.

    Raises:
        ValueError: naming the option, the function's own ones and the nearest of them.
    """
    parameters = inspect.signature(function).parameters.values()
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
            TypeAdapter(hints.get(option, Any)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Input ")
            raise ValueError(f"option '{option}' of {where} is {value!r}: it {reason}") from error
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in options:
            raise ValueError(f"{where} needs its option '{name}'")


def summary(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring, for lists."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
