"""Plug-ins: criteria, methods, models and data sets, of ours and of the user's.

What a kind of plug-in is given, may ask for and draws from stands here, once for each kind. A plug-in is a function:
its first arguments are what the kind gives; what it asks for it names as further arguments; its options are
keyword-only arguments of other names. `KIND.plugin(name, options)` finds the function and checks all of that, so that a
plug-in, once made, only has to be called.
"""

import difflib
import functools
import importlib
import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from workloads.config import PLACED, CalibrationConfig
from workloads.messages import first_line, is_from_outside
from workloads.own_code import digest_of_sources, shadowed_file


@dataclass(frozen=True)
class PluginKind:
    """What functions of one kind are given, and what they may ask for.

    Attributes:
        name: such as `criterion`.
        built_in: where the registered functions are, as `module:dictionary`; imported when needed.
        given: names of the arguments that every function takes, in this order.
        offers: what a function may ask for by naming an argument so, and what it then gets.
        drawn_from: those of them by which the results of a function depend on the seed.
        elsewhere: options that an experiment sets in a place of its own, and the place.
        takes_synthetic: whether the images that functions ask for may be made-up ones.
        hubs: `module:function` that says what a name means that is one of another library.
        placed: registered names behind which a place may stand, as in `hf:uoft-cs/cifar10`.
    """

    name: str
    built_in: str
    given: tuple[str, ...] = ()
    offers: Mapping[str, str] = field(default_factory=dict)
    drawn_from: frozenset[str] = frozenset()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    takes_synthetic: bool = False
    hubs: str = ""
    placed: tuple[str, ...] = ()

    @property
    def registered(self) -> Mapping[str, Callable[..., Any]]:
        """The functions that come with metaprune, by name."""
        module, _, attribute = self.built_in.partition(":")
        found: Mapping[str, Callable[..., Any]] = getattr(importlib.import_module(module), attribute)
        return found

    def plugin(self, name: str, options: Mapping[str, Any] | None = None) -> "Plugin":
        """The plug-in of this name with these options.

        Args:
            name: a registered name, or `module:function`.
            options: values of keyword-only arguments.

        Raises:
            ValueError: an unknown name, a function that does not take what it is given or asks for what is not
                offered, or an option that it does not have; the message says what there is.
        """
        plugin = Plugin(self, name, self.function(name), MappingProxyType(dict(options or {})))
        plugin.check()
        return plugin

    def function(self, name: str) -> Callable[..., Any]:
        """The function registered as `name`, or imported from `module:function`.

        Raises:
            ValueError: there is none.
        """
        registered = self.registered
        if (known := self.without_place(name)) in registered:
            return registered[known]
        if ":" not in name:
            raise ValueError(
                f"unknown {self.name} '{name}'{nearest(name, registered)} Known: {', '.join(sorted(registered))}; "
                f"your own is given as file:function"
            )
        if (found := self.of_hub(name)) is not None:
            return found
        module_name, _, attribute = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            if is_from_outside(error):
                raise
            hint = f"; leave out .py: '{module_name[:-3]}:{attribute}'" if module_name.endswith(".py") else ""
            raise ValueError(
                f"{self.name} '{name}': the module cannot be imported ({first_line(error)}){hint}"
            ) from error
        function: object = getattr(module, attribute, None)
        if file := shadowed_file(module_name):
            raise ValueError(
                f"{self.name} '{name}': '{file}' has the name of a module of Python's or an installed one, which is "
                f"imported in its place: give the file another name"
            )
        if not callable(function):
            raise ValueError(f"{self.name} '{name}': module '{module_name}' has no function '{attribute}'")
        return function

    def without_place(self, name: str) -> str:
        """The registered name in front of a place, where that may stand behind it; else the name itself."""
        before = name.partition(":")[0]
        return before if before in self.placed else name

    def of_hub(self, name: str) -> Callable[..., Any] | None:
        """What a name means that is one of another library; None where it is not."""
        if not self.hubs:
            return None
        module, _, attribute = self.hubs.partition(":")
        found: Callable[..., Any] | None = getattr(importlib.import_module(module), attribute)(name)
        return found

    def summaries(self) -> dict[str, str]:
        """What each registered function is, and its options with their defaults."""
        return {name: Plugin(self, name, function).summary for name, function in self.registered.items()}


@runtime_checkable
class OfHub(Protocol):
    """What a name of another library's means."""

    @property
    def digest(self) -> str:
        """Of all that defines it."""

    def __call__(self, **options: Any) -> Any:
        """What it makes."""


@dataclass(frozen=True)
class Plugin:
    """A function with its options, ready to be called.

    Attributes:
        kind: what it is one of.
        name: as the experiment names it.
        function: what is called.
        options: keyword arguments of the user's.
    """

    kind: PluginKind
    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return f"{self.kind.name} '{self.name}'"

    @property
    def own(self) -> bool:
        """Whether it is the user's, not one of the registered functions or of a hub."""
        return self.kind.without_place(self.name) not in self.kind.registered and not isinstance(self.function, OfHub)

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The arguments of the function."""
        return inspect.signature(self.function).parameters

    @property
    def asks(self) -> frozenset[str]:
        """What it asks for, of what its kind offers."""
        return frozenset(self.kind.offers.keys() & self.parameters.keys() - set(self.kind.given))

    @property
    def draws(self) -> bool:
        """Whether its results depend on the seed: on random numbers, or on which images it is shown."""
        return bool(self.asks & self.kind.drawn_from)

    @property
    def code(self) -> str | None:
        """A digest of the user's own code behind it, or of a hub's; None for a registered function.

        It enters the keys of stages, so that an edit makes results anew. What is no function or class itself, such as
        a `functools.partial`, is taken to be defined in the module that its name says.
        """
        if isinstance(self.function, OfHub):
            return self.function.digest
        if not self.own:
            return None
        named = self.name.partition(":")[0]
        defined = inspect.isroutine(self.function) or inspect.isclass(self.function)
        module = inspect.getmodule(self.function) if defined else sys.modules[named]
        assert module is not None
        return digest_of_sources(module, named)

    @property
    def hints(self) -> dict[str, Any]:
        """Types of its arguments; none where its annotations name what cannot be found."""
        try:
            return typing.get_type_hints(self.function.__init__ if inspect.isclass(self.function) else self.function)
        except Exception:  # annotations are the user's code, which may raise anything
            return {}

    def requires(self, name: str) -> bool:
        """Whether it asks for something that it cannot do without."""
        parameter = self.parameters.get(name)
        return parameter is not None and parameter.default is parameter.empty

    def __call__(self, *given: Any, **offered: Any) -> Any:
        """Call the function with what every one is given, with what it asks for of what is offered, and its options.

        One of the user's gets copies, and what it does to the process is put back.
        """
        asked = {name: offered[name] for name in self.asks if name in offered}
        if not self.own:
            return self.function(*given, **asked, **self.arguments)
        from workloads.isolation import isolated  # here, as it loads PyTorch

        seed = offered["generator"].initial_seed() if "generator" in offered else 0
        return isolated(self.function, self.where, seed)(*given, **asked, **self.arguments)

    def check_given(self, **sources: Any) -> None:
        """Make sure that none of the images that it requires is missing.

        Raises:
            ValueError: one is; says how to give it.
        """
        words = {"batches": "training batches", "images": "unlabelled images"}
        for source, value in sources.items():
            if self.requires(source) and not value:
                raise ValueError(f"{self.where} needs {words[source]}: give them as `{source}`")

    @functools.cached_property
    def calibration(self) -> CalibrationConfig | None:
        """Which images it is shown, where its options say so; those for all who ask for images are none of its own.

        Raises:
            ValueError: they are not such.
        """
        if "images" not in self.asks or "images" not in self.options:
            return None
        given = {name: self.options[name] for name in self.of_images if name in self.options}
        try:
            found = CalibrationConfig.model_validate(given)
        except ValidationError as error:
            reason = error.errors()[0]
            where = ".".join(map(str, reason["loc"][:1])) or "images"
            message = reason["msg"].removeprefix("Value error, ").removeprefix("Input ")
            raise ValueError(f"option '{where}' of {self.where} is {given.get(where)!r}: it {message}") from error
        if found.images == 0 or (found.synthetic and not self.kind.takes_synthetic):
            kinds = "a number of images, or `synthetic`" if self.kind.takes_synthetic else "a number of images"
            raise ValueError(f"option 'images' of {self.where} is {found.images!r}: give {kinds}")
        return found

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Its options, less those that say which images it is shown."""
        if self.calibration is None:
            return self.options
        return {name: value for name, value in self.options.items() if name not in self.of_images}

    @property
    def of_images(self) -> list[str]:
        """The options that say which images it is shown."""
        return [name for name in CalibrationConfig.model_fields if name not in self.own_options]

    @property
    def own_options(self) -> dict[str, inspect.Parameter]:
        """Its keyword-only arguments that are options; of a model, which gets nothing by position, all arguments."""
        kinds = {
            inspect.Parameter.KEYWORD_ONLY,
            *([] if self.kind.given else [inspect.Parameter.POSITIONAL_OR_KEYWORD]),
        }
        return {p.name: p for p in self.parameters.values() if p.kind in kinds and p.name not in self.asks}

    @property
    def summary(self) -> str:
        """The first line of its docstring, and its options with their defaults."""
        first = (inspect.getdoc(self.function) or "").partition("\n")[0]
        options = ", ".join(
            f"{name}={None if parameter.default is parameter.empty else parameter.default}"
            for name, parameter in self.own_options.items()
            if name not in self.kind.elsewhere
        )
        options = ", ".join(filter(None, ["images=512" if "images" in self.asks else "", options]))
        return first + (f" Options: {options}." if options else "")

    def check(self) -> None:
        """Make sure that it can be called so.

        Raises:
            ValueError: it cannot; says why.
        """
        self.check_arguments()
        if not any(p.kind is p.VAR_KEYWORD for p in self.parameters.values()):
            self.check_options()

    def check_arguments(self) -> None:
        """Make sure that the function takes what it is given, and asks for nothing that its kind does not offer."""
        if not self.kind.given:
            return
        signature = inspect.signature(self.function)
        required = {p.name for p in self.own_options.values() if p.default is p.empty}
        given = self.kind.given
        beyond = [p for p in list(self.parameters.values())[len(given) :] if p.kind is p.POSITIONAL_OR_KEYWORD]
        unknown = [p.name for p in beyond if p.default is p.empty and p.name not in self.asks]
        if unknown and not any(p.kind is p.VAR_POSITIONAL for p in self.parameters.values()):
            raise ValueError(self.not_offered(unknown[0]))
        try:
            signature.bind(*given, **dict.fromkeys(self.asks | required))
        except TypeError as error:
            raise ValueError(f"{self.where} has to take ({', '.join(given)}), but {error}") from error

    def not_offered(self, name: str) -> str:
        """That it asks for what its kind does not offer, and what that is."""
        offers = ", ".join(self.kind.offers) or "nothing"
        return (
            f"{self.where} asks for '{name}', which no {self.kind.name} is given: beside "
            f"({', '.join(self.kind.given)}) it may ask for {offers}; options are keyword-only arguments"
        )

    def check_options(self) -> None:
        """Make sure that it has the options that it gets, of these types, and gets those that it needs."""
        own = self.own_options
        hints = self.hints
        for option, value in self.arguments.items():
            if option not in own:
                raise ValueError(
                    f"{self.where} has no option '{option}'{nearest(option, own)} It takes: {', '.join(own) or 'none'}"
                )
            try:
                TypeAdapter(hints.get(option, Any)).validate_json(json.dumps(value, default=str), strict=True)
            except PydanticSchemaGenerationError:
                continue  # a type that YAML has no values of; the function will say what is wrong
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Input ")
                raise ValueError(f"option '{option}' of {self.where} is {value!r}: it {reason}") from error
        for name, parameter in own.items():
            if parameter.default is not parameter.empty or name in self.options or name in self.kind.elsewhere:
                continue
            if any(name in kind.offers for kind in (CRITERION, METHOD)):
                raise ValueError(self.not_offered(name))
            raise ValueError(f"{self.where} needs its option '{name}'")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: `; did you mean 'l1'?`, or a full stop where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."


_GENERATOR = "a torch.Generator on the CPU, seeded"
_EXAMPLE = "an image (1, C, H, W), of which the shape and device matter only"
_BATCHES = "labelled training batches, a list of (images (B, C, H, W), labels (B,))"
_IMAGES = "unlabelled training batches, a list of (B, C, H, W)"
_STATISTICS = "by layer, mean and deviation that its batch-norm gave each of its outputs before it was merged"

CRITERION = PluginKind(
    name="criterion",
    built_in="workloads.compression.criteria:CRITERIA",
    given=("model", "group"),
    offers={
        "batches": _BATCHES,
        "images": _IMAGES,
        "generator": _GENERATOR,
        "example": _EXAMPLE,
        "statistics": _STATISTICS,
    },
    drawn_from=frozenset({"generator", "batches", "images"}),
    takes_synthetic=True,
)
"""Importance of a group's neurons: returns (n,) scores."""

METHOD = PluginKind(
    name="method",
    built_in="workloads.compression.methods:METHODS",
    given=("pairings", "importance", "m"),
    offers={
        "model": "the network as it is, batch-norm merged",
        "group": "the group in it",
        "original": "the pair of network and group before any group was compressed",
        "statistics": _STATISTICS,
        "batches": _BATCHES,
        "images": _IMAGES,
        "generator": _GENERATOR,
        "example": _EXAMPLE,
    },
    drawn_from=frozenset({"generator", "batches", "images"}),
)
"""Compression of a group from n to m neurons: returns `Maps`."""

MODEL = PluginKind(
    name="model",
    built_in="workloads.networks.models:MODELS",
    offers={"in_channels": "channels of the images", "width": "factor on the number of channels of every layer"},
    elsewhere={
        "num_classes": "the data set says what it is",
        "in_channels": "the data set says what it is",
        "width": "give it as model.width",
    },
    hubs="workloads.networks.hubs.names:hub_model",
)
"""A network: gets `num_classes`, returns a module from images (B, C, H, W) to logits (B, num_classes)."""

DATASET = PluginKind(name="dataset", built_in="workloads.data.datasets:DATASETS", given=("config",), placed=PLACED)
"""A data set: gets its `DatasetConfig`, returns a `Source`."""
