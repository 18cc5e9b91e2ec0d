"""How networks are trained, as validated settings, and recipes of the literature; imports no torch."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from workloads.validated import Config, Count, Positive, by_name

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class ResizedCropConfig(Config):
    """A part of the image, of random area and shape, brought to the image's size (RandomResizedCrop)."""

    name: Literal["resized-crop"]
    """Which augmentation it is."""
    scale: tuple[Share, Share] = (0.08, 1.0)
    """Least and greatest area, as a share of the image's."""

    @model_validator(mode="after")
    def _ordered(self) -> "ResizedCropConfig":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}: give the smaller share first, and more than 0")
        return self


class RandAugmentConfig(Config):
    """Random changes of colours and geometry (RandAugment, Cubuk et al. 2020)."""

    name: Literal["rand-augment"]
    """Which augmentation it is."""
    operations: Positive = 2
    """How many are done to each image."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """How strong they are."""


class ErasingConfig(Config):
    """A rectangle in the data set's mean colour over a part of the image (Zhong et al. 2020)."""

    name: Literal["erasing"]
    """Which augmentation it is."""
    probability: Share = 0.25
    """Of an image to lose a part."""


class TimmPolicyConfig(Config):
    """Changes of colours and geometry by timm, which the package timm has to be installed for."""

    name: Literal["timm"]
    """Which augmentation it is."""
    policy: Annotated[str, Field(min_length=1)]
    """A policy as timm's `--aa` takes it, such as `rand-m9-mstd0.5-inc1`, `augmix-m5-w4-d2` or `original`."""


SIMPLE_STEPS = ("flip", "crop")
STEPS_WITH_OPTIONS = ("resized-crop", "rand-augment", "erasing", "timm")


def _step(value: Any) -> Any:
    """A name alone, or a mapping of `name` and options; `timm:POLICY` stands for one."""
    if isinstance(value, str) and value.startswith("timm:"):
        value = {"name": "timm", "policy": value.removeprefix("timm:")}
    return by_name(value, SIMPLE_STEPS, STEPS_WITH_OPTIONS)


def _step_tag(value: Any) -> str:
    return "tag-name" if isinstance(value, str) else f"tag-{dict(value)['name']}"


AugmentationStep = Annotated[
    Annotated[Literal["flip", "crop"], Tag("tag-name")]
    | Annotated[ResizedCropConfig, Tag("tag-resized-crop")]
    | Annotated[RandAugmentConfig, Tag("tag-rand-augment")]
    | Annotated[ErasingConfig, Tag("tag-erasing")]
    | Annotated[TimmPolicyConfig, Tag("tag-timm")],
    Discriminator(_step_tag),
    BeforeValidator(_step),
]


class OptimizerConfig(Config):
    """An optimizer with options."""

    name: str
    """`sgd`, `adamw`, or a class of `torch.optim`."""
    options: dict[str, Any]
    """Its keyword arguments, such as `betas`."""


def _optimizer(value: Any) -> Any:
    """A name alone where there are no options, else a mapping of `name` and `options`, which may stand beside it."""
    if isinstance(value, Mapping) and "name" in value:
        options = value.get("options", {key: option for key, option in value.items() if key != "name"})
        value = {"name": value["name"], "options": options} if options else value["name"]
    name = value["name"] if isinstance(value, Mapping) and "name" in value else value
    if isinstance(name, str) and name not in ("sgd", "adamw") and not re.fullmatch(r"[A-Z]\w*", name):
        raise ValueError("should be 'sgd', 'adamw', or the name of a class of torch.optim, such as 'NAdam'")
    return value


Optimizer = Annotated[str | OptimizerConfig, BeforeValidator(_optimizer)]

RECIPES: dict[str, dict[str, Any]] = {
    # Theus et al. 2024, appendix D: the defaults.
    "paper": {},
    # Smith and Topin 2019; decay and epochs as in Page 2018 (How to train your ResNet), half of its batch and rate.
    "one-cycle": {
        "epochs": 24,
        "batch_size": 256,
        "schedule": "one-cycle",
        "learning_rate": 0.2,
        "nesterov": True,
        "weight_decay": 5e-4,
    },
    # Touvron et al. 2021, table 9; without repeated augmentation and stochastic depth, which is the network's.
    "deit": {
        "epochs": 300,
        "batch_size": 1024,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_epochs": 5,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "augmentation": ("resized-crop", "flip", "rand-augment", "erasing"),
    },
}
DEIT_RATE, DEIT_IMAGES = 5e-4, 512


def with_recipe(settings: Mapping[str, Any], *without: str) -> dict[str, Any]:
    """Settings with those of their recipe where they give none, and without its name.

    Args:
        without: names of settings that the recipe leaves alone.

    Raises:
        ValueError: there is no such recipe.
    """
    given = dict(settings)
    name = given.pop("recipe", None)
    if name is None:
        return given
    if name not in RECIPES:
        *first, last = (f"'{known}'" for known in RECIPES)
        raise ValueError(f"recipe is {name!r}: it should be {', '.join(first)} or {last}")
    chosen = {key: value for key, value in RECIPES[name].items() if key not in without} | given
    size, batches = chosen.get("batch_size"), chosen.get("accumulation", 1)
    if name == "deit" and isinstance(size, int) and isinstance(batches, int):  # others are refused later
        chosen.setdefault("learning_rate", DEIT_RATE * size * batches / DEIT_IMAGES)
    return chosen


class TrainingConfig(Config):
    """How the cross entropy of labels is brought down; the defaults are the paper's (appendix D)."""

    recipe: Annotated[Literal["paper", "one-cycle", "deit"] | None, Field(exclude=True)] = None
    """Settings of the literature for all that is not given here: `paper` (Theus et al. 2024, the defaults), `one-cycle`
    (Smith and Topin 2019) or `deit` (Touvron et al. 2021). Results hold these settings, not its name."""
    epochs: Count = 300
    """Passes over the training images."""
    batch_size: Positive = 128
    """Images of a batch."""
    accumulation: Positive = 1
    """Batches whose gradients make one step of the optimizer, for steps over more images than fit into memory."""
    optimizer: Optimizer = "sgd"
    """`sgd`; `adamw`, whose weight decay spares biases and norms; or a class of torch.optim by its name, such as
    `NAdam`, likewise. Options stand beside the name: `{name: adamw, betas: [0.9, 0.95]}`."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Initial rate of `halving`, peak rate of `one-cycle` and `cosine`."""
    schedule: Literal["halving", "one-cycle", "cosine", "constant"] = "halving"
    """`halving` halves every `halve_every` epochs; `one-cycle` rises for 30 % of the steps, then falls to 0; `cosine`
    falls to 0 along half a period."""
    halve_every: Positive = 30
    """Epochs between two halvings."""
    warmup_epochs: Count = 0
    """Epochs in which the rate rises linearly before the schedule's own course; not for `one-cycle`, which rises."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: NonNegative = 0.0
    """L2 penalty; of `adamw` the decoupled decay."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient of all weights; a longer one is scaled down to it."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an average of the weights over steps, such as 0.999; the average is measured and kept."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes."""
    mixup: NonNegative = 0.0
    """Parameter of the Beta distribution by which pairs of images are mixed (Zhang et al. 2018); 0 mixes none."""
    cutmix: NonNegative = 0.0
    """Likewise for CutMix (Yun et al. 2019): a part of one image replaces that of another. Where both are given, one of
    the two is drawn for each batch."""
    augmentation: tuple[AugmentationStep, ...] | None = None
    """What is done to each training image, in this order: `flip`, `crop`, `resized-crop`, `rand-augment`, `erasing`, by
    name or as mappings with options, or a policy of timm, `timm:rand-m9-mstd0.5-inc1`; null is that of the data set."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 autocast where the hardware multiplies it natively, float32 elsewhere; `tf32` lets a GPU
    round the factors of float32 products to 10 bits."""
    evaluate_every: Positive = 1
    """Epochs between two measurements on the test images; the last epoch is always measured."""

    @model_validator(mode="before")
    @classmethod
    def _takes_recipe(cls, value: Any) -> Any:
        return with_recipe(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.optimizer_name != "sgd" and (unread := sorted(self.changed & {"momentum", "nesterov"})):
            raise ValueError(f"{' and '.join(unread)} belong to optimizer: sgd; here it is {self.optimizer_name}")
        if self.warmup_epochs and self.schedule == "one-cycle":
            raise ValueError("warmup_epochs do not go with schedule: one-cycle, which rises by itself: take cosine")
        if self.warmup_epochs >= self.epochs > 0:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs: the rate would never fall; give fewer"
            )
        return self

    @property
    def changed(self) -> set[str]:
        """Names of the settings that are not the default."""
        return set(self.model_dump(exclude_defaults=True))

    @property
    def optimizer_name(self) -> str:
        """The optimizer without its options."""
        return self.optimizer if isinstance(self.optimizer, str) else self.optimizer.name

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """Keyword arguments that an experiment gives to the optimizer."""
        return {} if isinstance(self.optimizer, str) else self.optimizer.options


class FineTuningConfig(TrainingConfig):
    """Retraining after pruning or fusion; the defaults are the paper's (appendix D)."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """Initial rate of `halving`, peak rate of `one-cycle` and `cosine`."""
    epochs: Count = 80
    """Epochs at the intermediate and at the last point of FaP and PaF; whole-data gets both at its end."""
    step_epochs: Count = 10
    """Epochs after each pruning step."""
    images: Annotated[int, Field(ge=2)] | None = None
    """How many training images are learnt, those that a compression looks at first; null is all."""
    objective: Literal["labels", "distillation"] = "labels"
    """`labels` is their cross entropy; `distillation` brings the answers near those of the unpruned network, or, of a
    fused one, to the mean of those that were fused, without labels."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """By which distillation divides the logits."""
    labels: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the labels' cross entropy in distillation, and 1 less it that of the answers."""
    features: Annotated[float, Field(ge=0)] = 0.0
    """Weight in distillation of how alike the last layer's inputs of any two images of a batch are."""

    @model_validator(mode="before")
    @classmethod
    def _takes_recipe(cls, value: Any) -> Any:
        return with_recipe(value, "epochs") if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _distils(self) -> "FineTuningConfig":
        unread = [name for name in ("temperature", "labels", "features") if name in self.changed]
        if unread and self.objective == "labels":
            raise ValueError(f"{' and '.join(unread)} belong to objective: distillation; here objective is labels")
        return self

    @property
    def objective_label(self) -> str:
        """The objective and its settings that are not the default, as in results."""
        if self.objective == "labels":
            return self.objective
        own = ("temperature", "labels", "features")
        others = {
            name: value for name in own if (value := getattr(self, name)) != type(self).model_fields[name].default
        }
        settings = ", ".join(f"{name}={value:g}" for name, value in others.items())
        return f"{self.objective}({settings})" if settings else self.objective
