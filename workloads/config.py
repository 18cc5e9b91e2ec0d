"""What a data set, a model and a training are, as validated settings; imports no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from workloads.calibration import CalibrationConfig as CalibrationConfig
from workloads.recipes import FineTuningConfig as FineTuningConfig
from workloads.recipes import TrainingConfig as TrainingConfig
from workloads.scope import DEFAULT_KINDS as DEFAULT_KINDS
from workloads.scope import KINDS as KINDS
from workloads.scope import Kind as Kind
from workloads.scope import Ratio
from workloads.scope import ScopeConfig as ScopeConfig
from workloads.validated import Config as Config
from workloads.validated import Count as Count
from workloads.validated import Positive as Positive
from workloads.validated import by_name, labelled
from workloads.validated import takes as takes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SplitName = Annotated[str, Field(pattern=r"^\w[\w.{}-]*$")]
PLACED = ("hf", "wds")
"""Data sets whose name may have a place behind a colon: `hf:uoft-cs/cifar10`."""


def as_choice(value: Any) -> Any:
    """A function and its options as a mapping of `name` and `options`, which may stand beside the name."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and "name" in value and "options" not in value:
        options = {key: option for key, option in value.items() if key != "name"}
        return {"name": value["name"], **({"options": options} if options else {})}
    return value


class ChoiceConfig(Config):
    """A criterion or method: its name, or a mapping of `name` and options."""

    name: str
    """Registered name or `package.module:function`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function."""

    @property
    def label(self) -> str:
        """Name and options, as they stand in results."""
        name = self.name.rpartition(":")[2]
        options = ", ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"{name}({options})" if options else name


Choice = Annotated[ChoiceConfig, BeforeValidator(as_choice)]


class DatasetConfig(Config):
    """A data set of labelled images, in a part to train on and one to measure on."""

    name: str
    """A registered data set (`metaprune list datasets`), one of the Hugging Face Hub (`hf:uoft-cs/cifar10`), a folder
    in its layout (`hf:FOLDER`), webdataset shards (`wds:FOLDER/train-{000..009}.tar`), or `package.module:function`."""
    root: str | None = None
    """Folder of the files; `digits` needs none, `cifar10` and the like default to `data/`."""
    configuration: str | None = None
    """Configuration of a data set of the Hub or of a folder in its layout, where there are several."""
    revision: str | None = None
    """Branch, tag or commit of a data set of the Hub; null is its `main`. Results say which commit that was."""
    label: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+$")] | None = None
    """Name in results; null is what the Hub's description beside the files says, else the name of their folder, or of
    the data set. The paper's tables are those of `cifar10`, `cifar100` and `imagenet`."""
    train: SplitName = "train"
    """Split that is trained on: `train.parquet`, `train/`, `train-000000.tar`; of `wds`, also the shards themselves,
    `it-{000..009}.tar`."""
    test: SplitName | None = None
    """Split that is measured on; null is `test`, or `validation`, `valid`, `val` or `dev` where there is none, unless a
    share of train is held out. Of a data set of `hf` that has train alone, a tenth of that is held out."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training images, the same of every class, that is measured on in place of a test split; none of it
    is trained on."""
    size: Positive | None = None
    """Height and width in pixels that images are resized to; null keeps the files' own."""
    resize: Positive | None = None
    """Shorter side in pixels that images of files are resized to before the centre of `size` is cut out, such as 256
    for ImageNet's 224; null is `size`."""
    channels: Literal[1, 3] | None = None
    """Channels that images of files are brought to: 1 is grey, 3 is RGB; null takes grey where all images are."""
    background: Literal["black", "white"] | None = None
    """What images with transparent pixels are laid on; null refuses them."""
    image_column: str | None = None
    """Column of the images in `parquet` and `hf`; null is the only one."""
    label_column: str | None = None
    """Column of the labels in `parquet` and `hf`, such as `coarse_label`; null is `label`, `labels` or `fine_label`."""
    mean: tuple[float, ...] | None = None
    """Mean a channel of pixels in [0, 1]; null is ImageNet's (its average for grey images)."""
    std: tuple[float, ...] | None = None
    """Standard deviation a channel, likewise."""
    augmentation: tuple[Literal["flip", "crop"], ...] = ("flip", "crop")
    """Applied to training batches: horizontal flips; crops after padding by an eighth of the size."""
    train_samples: Positive | None = None
    """Use only this many training images, the first after a fixed shuffle; null uses all."""
    test_samples: Positive | None = None
    """Use only this many test images, likewise."""
    stream: bool = False
    """Decode images batch by batch, for sets larger than memory; `image-folder`, `hf` and `wds` can."""

    @model_validator(mode="after")
    def _normalisation_matches(self) -> "DatasetConfig":
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std {len(self.std)}: give both the same")
        if self.resize and (self.size is None or self.resize < self.size):
            raise ValueError(f"resize is {self.resize} and size {self.size}: give a size that is not larger")
        if self.std and min(self.std) <= 0:
            raise ValueError("std must be positive in every channel")
        if self.test is not None and self.held_out is not None:
            raise ValueError(f"test is '{self.test}' and held_out {self.held_out:g}: give one of the two")
        if self.train == (self.test or (None if self.held_out else "test")):
            raise ValueError(f"train and test are both '{self.train}': name two splits, or give held_out")
        return self

    @property
    def reader(self) -> str:
        """The name without the place that may stand behind it: `hf` of `hf:uoft-cs/cifar10`."""
        before = self.name.partition(":")[0]
        return before if before in PLACED else self.name

    @property
    def place(self) -> str:
        """What stands behind the colon of such a name; empty elsewhere."""
        return self.name.partition(":")[2] if self.reader != self.name else ""


class ModelConfig(Config):
    """A network and where its weights come from."""

    name: str
    """A registered model (`metaprune list models`), one of a hub (`timm:resnet18`, `torchvision:resnet50`,
    `hf:microsoft/resnet-18` or `hf:` and a folder of that layout), or `package.module:function`."""
    label: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+$")] | None = None
    """Name in results, so that several variants of one model can be told apart; null is the name, with the width where
    it is not 1."""
    width: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the number of channels of every layer of a registered model."""
    checkpoint: str | None = None
    """File of a state dict to start from instead of training: safetensors, whole or the index of shards, or one of
    `torch.save` (`file.pth#entry` where it holds several); or a folder with one of them, as the Hub has them."""
    checkpoints: Annotated[tuple[str, ...], Field(min_length=2, max_length=8)] | None = None
    """Two to eight such files, each of widths of its own if need be: the parents that FaP, PaF and `fuse` start from
    instead of split models."""
    pretrained: bool = False
    """Start from the published weights of a network of timm, torchvision or the Hub instead of training."""
    weights: str | None = None
    """Which of them, where there are several, such as torchvision's `IMAGENET1K_V2`; sets `pretrained`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of the model's function."""

    @model_validator(mode="after")
    def _one_start(self) -> "ModelConfig":
        starts = {"checkpoint": self.checkpoint, "checkpoints": self.checkpoints, "pretrained": self.from_hub}
        if len(given := [name for name, value in starts.items() if value]) > 1:
            raise ValueError(
                f"model '{self.name}' has {' and '.join(given)}: give one of checkpoint, a network's file, "
                f"checkpoints, the parents of a fusion, and pretrained, published weights"
            )
        return self

    @property
    def from_hub(self) -> bool:
        """Whether it starts from published weights."""
        return self.pretrained or self.weights is not None

    @property
    def given(self) -> bool:
        """Whether its weights are given, so that nothing is trained before pruning or fusion."""
        return bool(self.checkpoint or self.checkpoints or self.from_hub)

    @property
    def architecture(self) -> dict[str, Any]:
        """The settings that say how to build the network, without those of its weights."""
        return self.model_dump(mode="json", exclude={"checkpoint", "checkpoints", "pretrained", "weights"})

    @property
    def name_in_results(self) -> str:
        """The label, or the name with the width where it is not 1."""
        if self.label is not None:
            return self.label
        name = self.name.rpartition(":")[2].rstrip("/").rpartition("/")[2]
        return name if self.width == 1 else f"{name}-w{self.width:g}"


class SplitsConfig(Config):
    """How the training set is cut for the split models."""

    mode: Literal["unions", "separate", "overlapping"] = "unions"
    """`unions` trains a model on every union of half of the folds (2 models for 2 folds, 6 for 4), `separate` one on
    each fold, `overlapping` as many as folds on stretches that overlap."""
    folds: Annotated[int, Field(ge=2, le=12)] = 2
    """k disjoint parts, even for unions; of overlapping stretches, their number."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training set in each overlapping stretch, such as 0.6; null for other modes."""
    stratified: bool = True
    """Whether every part has the classes in the same proportion."""

    @model_validator(mode="after")
    def _consistent(self) -> "SplitsConfig":
        if self.mode == "unions" and self.folds % 2:
            raise ValueError(f"folds is {self.folds}: it must be even, a split model sees half of the folds")
        if (self.share is None) == (self.mode == "overlapping"):
            raise ValueError(
                f"mode is {self.mode} and share {self.share}: overlapping stretches need a share, others none"
            )
        return self

    @property
    def label(self) -> str:
        """The mode and every other setting but the number of parts that is not the default, as in results."""
        return labelled(self, "mode", without="folds")


class LeastSquaresConfig(CalibrationConfig):
    """Compensation by least squares: the layers around what was pruned are solved again (see `repair`).

    With 0 images nothing is solved, and all layers keep the weights that the method's maps make.
    """

    name: Literal["least-squares"] = "least-squares"
    """Which repair it is."""
    kernels: Literal["full", "pointwise"] = "full"
    """What is solved for: `full` kernels, or one map of the input channels for all places of a kernel, and the bias,
    in less than half of the time."""
    refine: Count = 0
    """Epochs in which each chain of a layer, an activation and a second layer is fitted to what the second one is to
    make, by gradient steps without labels."""
    views: tuple[Literal["mirrored", "shifted"], ...] = ()
    """More of few training images: each entry doubles their number by their mirror images, or by copies that are moved
    by up to an eighth of their size."""

    @model_validator(mode="after")
    def _views_are_of_training_images(self) -> "LeastSquaresConfig":
        if self.views and self.synthetic:
            raise ValueError("views are of training images; of made-up ones there may be more: raise count")
        if self.views.count("mirrored") > 1:
            raise ValueError("views has mirrored twice: mirror images of mirror images are the images again")
        return self

    @property
    def label(self) -> str:
        """The name and every setting that is not the default, as in results."""
        return labelled(self, "name")


SIMPLE_REPAIRS = ("none", "data-free", "data")


def _tag(value: Any) -> str:
    return "tag-name" if isinstance(value, str) else "tag-options"


Repair = Annotated[
    Annotated[Literal["none", "data-free", "data"], Tag("tag-name")]
    | Annotated[LeastSquaresConfig, Tag("tag-options")],
    Discriminator(_tag),
    BeforeValidator(lambda value: by_name(value, SIMPLE_REPAIRS, ("least-squares",))),
]


def repair_label(repair: Repair) -> str:
    """A repair as it stands in results, with the options that are no defaults."""
    return repair if isinstance(repair, str) else repair.label


def as_switch(value: Any) -> Any:
    """A fusion's repair in one way of writing, so that equal ones have equal keys: `data` is true, `none` false."""
    return {"data": True, "none": False}.get(value, value) if isinstance(value, str) else value


ALIGNING = ("alignment", "marginal", "regularisation", "residual", "sweeps", "onto")
"""Settings of a fusion that say how neurons are aligned."""


class FusionConfig(Config):
    """How the split models become one (section 6)."""

    alignment: Literal["activations", "weights", "weight-matching", "none"] = "activations"
    """Optimal transport by distances of `activations` or of `weights`, Git Re-Basin's `weight-matching`, or none."""
    marginal: Literal["uniform", "importance"] = "uniform"
    """Masses of the neurons: equal, or in proportion to their l1 importance."""
    regularisation: Annotated[float, Field(gt=0)] | None = None
    """Makes the transport soft (Sinkhorn): the weight of its entropy, as a share of the mean cost. A neuron then mixes
    with several that are alike; null is the exact transport. Heads of attention are always assigned one to one."""
    residual: Literal["permutation", "rotation"] = "permutation"
    """How residual streams of transformers are aligned: by a `permutation` of their channels, or by any `rotation`,
    once scale and bias of the norms are folded into the layers that read them."""
    sweeps: Positive | None = None
    """Passes over the groups for costs from weights, fewer once nothing moves; null is 1 as in the paper, 100 for
    weight-matching."""
    onto: Literal["anchor", "running"] = "anchor"
    """What each further model is aligned to: the first, or the average so far."""
    weights: Literal["equal", "accuracy"] = "equal"
    """Weights of the average: equal, or the accuracy on the training images below."""
    samples: Positive = 200
    """Training images whose activations give the transport cost."""
    repair: Annotated[bool | Repair, BeforeValidator(as_switch)] = True
    """Match mean and deviation of the layers' outputs to those of the aligned models (REPAIR, Jordan et al. 2023):
    `true` or `data`; `false` or `none` leaves them. After a `method`, any repair of a compression."""
    method: Choice | None = None
    """Instead of aligning: compress the models side by side, one network of all their neurons, to the widths of the
    narrowest by this method (`metaprune list methods`); null aligns and averages."""
    criterion: Choice = ChoiceConfig(name="l1")
    """Importance criterion for the method."""

    @model_validator(mode="after")
    def _one_way(self) -> "FusionConfig":
        given = self.model_dump(exclude_defaults=True)
        aligning = [name for name in ALIGNING if name in given]
        if self.method and aligning:
            raise ValueError(
                f"fusion has method {self.method.label}, which aligns nothing, and {aligning[0]} "
                f"{given[aligning[0]]}: remove one of the two"
            )
        if self.regularisation and (self.alignment == "weight-matching" or self.sweeps not in (None, 1)):
            raise ValueError(
                "fusion.regularisation makes a soft transport, which mixes neurons each time anew: leave out sweeps, "
                "and take alignment activations or weights"
            )
        if self.residual == "rotation" and self.alignment == "none":
            raise ValueError("fusion.residual is rotation, but alignment none aligns nothing: give another alignment")
        if not self.method and "criterion" in given:
            raise ValueError(f"fusion has criterion {self.criterion.label} but no method that asks for it: give both")
        if not self.method and not isinstance(self.repair, bool):
            raise ValueError(
                f"fusion.repair is {repair_label(self.repair)}, which follows a method: give one, or set repair to true"
            )
        return self

    @property
    def repair_of_method(self) -> Repair:
        """The repair as a compression has it."""
        return ("data" if self.repair else "none") if isinstance(self.repair, bool) else self.repair

    @property
    def label(self) -> str:
        """The alignment or the method, and every other setting that is not the default, as they stand in results."""
        if self.method is None:
            return labelled(self, "alignment")
        others = self.model_dump(exclude_defaults=True, exclude={"method", "criterion"})
        if self.criterion.label != "l1":
            others["criterion"] = self.criterion.label
        if not isinstance(self.repair, bool):
            others["repair"] = repair_label(self.repair)
        settings = ", ".join(f"{name}={value}" for name, value in sorted(others.items()))
        return f"{self.method.label}; {settings}" if settings else self.method.label


class MeasuringConfig(Config):
    """How networks are measured; what a training measures after its epochs is always in float32."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` is faster where the hardware multiplies it natively; accuracies move by some images in 10,000."""


class LandscapeConfig(Config):
    """The accuracy over a plane through the original and two pruned networks (Fig. 6)."""

    size: Annotated[int, Field(ge=2)] = 25
    """Points along each side of the slice."""
    margin: Annotated[float, Field(ge=0)] = 0.25
    """How far it reaches beyond the three networks, as a share of their extent."""
    samples: Positive | None = None
    """Test images that each point is measured on; null is all."""


class BarrierConfig(Config):
    """Loss and accuracy along the straight line between two networks, aligned as a fusion says."""

    points: Annotated[int, Field(ge=3)] = 11
    """Points at equal distances, both networks included."""
    samples: Positive | None = None
    """Test images that each point is measured on; null is all."""


if TYPE_CHECKING:
    # What a constructor takes is wider than what the setting then is, and that is what a type checker knows of a
    # descriptor: it takes an argument of the type that `__set__` takes.
    class GivenChoice:
        def __get__(self, instance: object, owner: type | None = None) -> ChoiceConfig: ...
        def __set__(self, instance: object, value: str | Mapping[str, Any] | ChoiceConfig) -> None: ...

    class GivenRepair:
        def __get__(self, instance: object, owner: type | None = None) -> Repair: ...
        def __set__(self, instance: object, value: str | Mapping[str, Any] | LeastSquaresConfig) -> None: ...
else:
    GivenChoice, GivenRepair = Choice, Repair


def _unless_given(value: Any) -> Any:
    """A default, whose type a checker does not compare with the descriptor's."""
    return value


class CompressionConfig(ScopeConfig):
    """How one network is compressed."""

    criterion: GivenChoice = _unless_given(ChoiceConfig(name="l1"))
    """An importance criterion: its name, or a mapping of `name` and its options."""
    method: GivenChoice = _unless_given(ChoiceConfig(name="conventional"))
    """A method, likewise."""
    sparsity: Ratio
    """Share to remove; or a mapping with one for each group, by number or by the names of layers, such as
    `{0: 0.3, "layer1.*": 0.7}`: the others stay whole."""
    group: Count | None = None
    """The group to compress; null is all in sequence."""
    groups: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """The groups to compress together, where these are neither one nor all."""
    repair: GivenRepair = _unless_given("none")
    """What is done for the layers around what was pruned: `none`, `data-free` (repair of the activations' mean and
    deviation from the weights alone), `data` (the same on 512 training images), or `least-squares` with its options."""

    @model_validator(mode="after")
    def _one_way_to_name_groups(self) -> "CompressionConfig":
        if self.group is not None and self.groups is not None:
            raise ValueError(f"group is {self.group} and groups {list(self.groups)}: give one of the two")
        if not isinstance(self.sparsity, Mapping):
            return self
        if self.group is not None or self.groups is not None:
            raise ValueError("sparsity is a mapping, which names groups itself: leave out group and groups")
        if self.sparsity_of != "neurons" or self.allocation != "uniform":
            raise ValueError(
                "sparsity is a mapping of groups' shares of neurons: leave sparsity_of and allocation as they are"
            )
        return self
