"""Which images a criterion, a compensation or a search looks at, as validated settings; imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from workloads.validated import Config, Count, Positive


def _number_or_synthetic(value: Any) -> Any:
    if value != "synthetic" and (type(value) is not int or value < 0):
        raise ValueError("should be a number of images, or 'synthetic'")
    return value


class CalibrationConfig(Config):
    """The images that a criterion or a compensation looks at, which have no labels."""

    images: Annotated[Count | Literal["synthetic"], BeforeValidator(_number_or_synthetic)] = 512
    """How many training images, at most; or `synthetic`, made-up ones, and no training image is loaded."""
    kind: Literal["dead-leaves", "pink-noise", "mixed"] = "dead-leaves"
    """What is made up: discs and boxes that cover each other, noise with the spectrum of photographs, or both."""
    count: Positive = 512
    """How many images are made up; which ones, the experiment's seed says."""

    @property
    def synthetic(self) -> bool:
        """Whether they are made up."""
        return self.images == "synthetic"

    @property
    def looked_at(self) -> int:
        """How many images there are, at most."""
        return self.images if isinstance(self.images, int) else self.count

    @model_validator(mode="after")
    def _is_read(self) -> "CalibrationConfig":
        defaults = CalibrationConfig.model_fields
        made_up = [name for name in ("kind", "count") if getattr(self, name) != defaults[name].default]
        if made_up and not self.synthetic:
            raise ValueError(f"{' and '.join(made_up)} belong to images: synthetic; here images is {self.images}")
        return self
