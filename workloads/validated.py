"""Settings that are validated when they are made, and the texts by which results name them; imports no torch."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Config(BaseModel):
    """Settings that cannot change once made and have no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any) -> Any:
        for name, given in value.items() if isinstance(value, Mapping) else ():
            if (
                isinstance(given, bool)
                and name in cls.model_fields
                and not takes(cls.model_fields[name].annotation, bool)
            ):
                raise ValueError(f"{name} is {str(given).lower()}: it is no switch, give a value")
        return value


def takes(annotation: Any, kind: type) -> bool:
    """Whether a setting of this type may have values of a kind."""
    return annotation in (kind, Any) or any(takes(argument, kind) for argument in get_args(annotation))


def labelled(config: Config, first: str, without: str = "") -> str:
    """`first(a=1, b=2)`: the value of one setting, and every other that is not its default."""
    others = config.model_dump(exclude_defaults=True, exclude={first, without})
    texts = {name: "+".join(map(str, value)) if isinstance(value, tuple) else value for name, value in others.items()}
    settings = ", ".join(f"{name}={value}" for name, value in sorted(texts.items()))
    return f"{getattr(config, first)}({settings})" if settings else str(getattr(config, first))


def by_name(value: Any, simple: Collection[str], with_options: Collection[str]) -> Any:
    """A choice that is a name alone where it has no options, and a mapping of `name` and options where it has some.

    Args:
        value: what an experiment says: a name, a mapping, or settings.
        simple: names without options.
        with_options: names with some.

    Raises:
        ValueError: there is no such name, or one without options has some.
    """
    name = value.get("name") if isinstance(value, Mapping) else value
    if isinstance(name, str) and name not in (*simple, *with_options):
        *first, last = (f"'{known}'" for known in (*simple, *with_options))
        raise ValueError(f"should be {', '.join(first)} or {last}")
    if isinstance(value, Mapping) and name in simple:
        if len(value) > 1:
            raise ValueError(f"'{name}' has no options: leave out {', '.join(sorted(set(value) - {'name'}))}")
        return name
    return {"name": value} if isinstance(value, str) and value in with_options else value
