"""Names as a paper has them, and the order in which readers expect numbered names."""

import re
from collections.abc import Iterable

NETWORKS = {
    r"vgg(\d+)_bn": r"VGG\1-BN",
    r"vgg(\d+)": r"VGG\1",
    r"resnet(\d+)": r"ResNet\1",
    r"densenet(\d+)": r"DenseNet\1",
    r"mobilenet_v(\d)": r"MobileNetV\1",
    r"vit_b_(\d+)": r"ViT-B/\1",
    r"vit_l_(\d+)": r"ViT-L/\1",
    r"swin_t": "Swin-T",
    r"swin_s": "Swin-S",
    r"swin_b": "Swin-B",
}


def network_name(model: str) -> str:
    """`VGG11-BN (0.5×)` for `vgg11_bn-w0.5`; what follows the name, and names that no paper has, stay.

    Args:
        model: as in the column `model` of `reports.results.selection.Tables`.
    """
    end = min((place for mark in (", ", " on ") if (place := model.find(mark)) >= 0), default=len(model))
    name, suffix = model[:end], model[end:]
    plain, mark, width = name.rpartition("-w")
    if not mark or not re.fullmatch(r"\d[\d.]*(e[+-]\d+)?", width):
        plain, width = name, ""
    for pattern, written in NETWORKS.items():
        if re.fullmatch(pattern, plain):
            plain = re.sub(pattern, written, plain)
    return plain + (f" ({width}×)" if width else "") + suffix


def natural(name: object) -> str:
    """A key that sorts names by the values of the numbers in them: 0, 1, 2, 10."""
    return re.sub(r"\d+(?:\.\d+)?", lambda found: f"{float(found[0]):024.9f}", str(name))


def in_order(names: Iterable[str]) -> list[str]:
    """Different names in their natural order."""
    return sorted({*names}, key=natural)
