"""Built-in networks: the paper's, with the state-dict names of the published ones, and a vision transformer."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from workloads.config import ModelConfig
from workloads.isolation import process_kept, seed_all
from workloads.messages import first_line, is_from_outside
from workloads.networks.vit import vit_cifar
from workloads.plugins import MODEL, OfHub
from workloads.structure.logits import parts_uncompiled, returning_logits, unwrapped

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, at least 1."""
    return max(1, round(channels * width))


class VGG(nn.Module):
    """VGG with batch-norm and a single linear classifier, as Intra-Fusion's authors use it.

    Input (B, in_channels, H, W) with H, W ≥ 32; output (B, num_classes) logits.
    State dict: `features.N.*`, `classifier.*`; convolutions have biases.
    """

    def __init__(self, layout: tuple[int | str, ...], in_channels: int, num_classes: int, width: float):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in layout:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            out = scaled(entry, width)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016); 1×1 convolution where shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet of basic blocks with a 3×3 stem for small images, as Intra-Fusion's authors use it.

    Input (B, in_channels, H, W) with H, W ≥ 8; output (B, num_classes) logits.
    State dict: `conv1, bn1, layer1.0.conv1, …, shortcut.0/1, linear`; convolutions have biases.
    """

    def __init__(self, blocks: tuple[int, ...], in_channels: int, num_classes: int, width: float):
        super().__init__()
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, depth in enumerate(blocks):
            out = scaled(64 * 2**stage, width)
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            sizes = [channels] + [out] * (depth - 1)
            layer = nn.Sequential(*(BasicBlock(n, out, s) for n, s in zip(sizes, strides, strict=True)))
            self.add_module(f"layer{stage + 1}", layer)
            channels = out
        self.stages = len(blocks)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def vgg11_bn(*, in_channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """VGG11 with batch-norm for images of at least 32×32 (Simonyan & Zisserman 2015)."""
    return VGG(VGG11, in_channels, num_classes, width)


def resnet18(*, in_channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """ResNet18 with a 3×3 stem, for small images (He et al. 2016)."""
    return ResNet((2, 2, 2, 2), in_channels, num_classes, width)


def resnet10(*, in_channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """ResNet10 with a 3×3 stem: one basic block a stage, for quick experiments."""
    return ResNet((1, 1, 1, 1), in_channels, num_classes, width)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "vgg11_bn": vgg11_bn,
    "resnet18": resnet18,
    "resnet10": resnet10,
    "vit_cifar": vit_cifar,
}


def build(config: ModelConfig, *, channels: int, classes: int, seed: int = 0) -> nn.Module:
    """A freshly initialised network for images with `channels` channels and `classes` labels.

    The model's function gets `num_classes`, and `in_channels` and `width` where it takes them, so that
    `torchvision.models:resnet50` works as it is. Whatever it does to the process is put back, random numbers included.

    Raises:
        ValueError: an unknown name, or the function refuses its options.
    """
    model = MODEL.plugin(config.name, config.options)
    if named := sorted(config.options.keys() & MODEL.elsewhere):
        raise ValueError(f"the options of {model.where} hold {named[0]}: leave it out, {MODEL.elsewhere[named[0]]}")
    arguments = {"num_classes": classes, **config.options}
    if "in_channels" in model.asks:
        arguments["in_channels"] = channels
    elif channels != 3:
        raise ValueError(f"{model.where} has no in_channels argument; the images have {channels} channels")
    if "width" in model.asks:
        arguments["width"] = config.width
    elif config.width != 1.0:
        raise ValueError(f"{model.where} has no width argument: remove model.width")
    with process_kept():
        seed_all(seed)
        try:
            network: nn.Module = model.function(**arguments)
        except (Exception, SystemExit) as error:
            if is_from_outside(error):
                raise
            if isinstance(model.function, OfHub) and isinstance(error, ValueError):
                raise ValueError(f"{model.where} cannot be built: {error}") from error
            given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            raise ValueError(f"{model.where} cannot be built with {given} ({first_line(error)})") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{model.where} gave {type(network).__name__}: its function has to return a torch.nn.Module")
    return returning_logits(parts_uncompiled(unwrapped(network)))
