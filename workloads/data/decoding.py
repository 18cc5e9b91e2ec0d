"""From an encoded image (PNG, JPEG, TIFF, ...) to 8-bit pixels, or one sentence on why not.

What would change pixels is never passed over: 16 bits a channel are scaled by their range, EXIF's orientation is
applied, transparency is laid on the background asked for; what has no range (floats, 32-bit integers) is refused.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

EXIF_ORIENTATION, TIFF_BITS, TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 258, 262, 0
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
LFS_POINTER = b"version https://git-lfs"
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
COLOURS = {"black": (0, 0, 0, 255), "white": (255, 255, 255, 255)}

Encoded = Path | bytes


class ImageProblem(ValueError):
    """An image that cannot be read; the message names it."""


def decode(
    file: Encoded,
    shape: tuple[int, int, int],
    shorter: int | None = None,
    *,
    background: str | None = None,
    place: str | None = None,
) -> Tensor:
    """A (C, H, W) uint8 image: the shorter side resized to fit, or to so many pixels, then the centre.

    Args:
        file: its path, or its bytes.
        shape: (C, H, W) to bring it to; one channel is luma, three are RGB.
        shorter: pixels of the shorter side before the centre is cut out; None is what just covers `shape`.
        background: black or white, which transparent images are laid on.
        place: where it is, for messages; None is its path.

    Raises:
        ValueError: it cannot be read, has no range of values, or is transparent and there is no background.
    """
    channels, height, width = shape
    with opened(file, place) as original:
        image = plain(original, background).convert("RGB" if channels == 3 else "L")
    if image.size != (width, height) or shorter:
        factor = max(width / image.width, height / image.height)
        if shorter:
            factor = shorter / min(image.size)
        resized = max(width, round(image.width * factor)), max(height, round(image.height * factor))
        image = image.resize(resized, Image.Resampling.BILINEAR)
        left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(image).reshape(height, width, channels)).permute(2, 0, 1)


@contextlib.contextmanager
def opened(file: Encoded, place: str | None = None) -> Iterator[Image.Image]:
    """The image, its header read; what goes wrong with it inside the block is an `ImageProblem` that names it."""
    place = place or (f"'{file}'" if isinstance(file, Path) else "an image")
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            yield image
    except ImageProblem as problem:
        raise ImageProblem(f"{place} {problem}") from problem
    except Exception as error:  # Pillow raises whatever it comes across in damaged files
        raise ImageProblem(f"{place} {_reason(file, error)}") from error


def _reason(file: Encoded, error: Exception) -> str:
    if isinstance(file, Path) and not file.exists():
        return "is not there: put it back, or leave it out"
    with contextlib.suppress(OSError):
        if problem := content_problem(file):
            return problem
    if isinstance(error, UnidentifiedImageError):
        return "is no image that can be read: replace it, or leave it out"
    text = str(error).strip().partition("\n")[0]
    if "conversion" in text:
        return f"has colours that cannot be converted ({text}): save it as RGB or grey"
    return f"is damaged or cut off ({text}): replace it, or leave it out"


def content_problem(file: Encoded) -> str:
    """What stands in place of a file's content, as the end of a sentence; empty where it may be what it should be."""
    if isinstance(file, bytes):
        beginning = file[: len(LFS_POINTER)]
    else:
        with file.open("rb") as opened_file:
            beginning = opened_file.read(len(LFS_POINTER))
    if not beginning:
        return "is empty (0 bytes): fetch it again, or leave it out"
    if beginning == LFS_POINTER:
        return "is a Git LFS pointer, not the file itself: `git lfs pull` fetches it"
    return ""


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) to 8; TIFF's is applied by Pillow already."""
    tagged = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"} & image.info.keys()
    if image.format == "TIFF" or not tagged:
        return 1
    try:
        value = int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged tag says nothing
        return 1
    return value if value in TURNS else 1


def plain(image: Image.Image, background: str | None) -> Image.Image:
    """The image upright, opaque and with 8 bits a channel."""
    turn = orientation(image)
    transparent = image.has_transparency_data
    if is_deep(image):
        image = scaled(image)
    if transparent:
        image = opaque(image, background)
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def is_deep(image: Image.Image) -> bool:
    """Whether a grey value has more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def scaled(image: Image.Image) -> Image.Image:
    """A grey image of 8 bits from one of more, by the range of its mode: 0…65535 becomes 0…255."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise ImageProblem(
            f"holds {kind}, which have no range from black to white: save it with 8 or 16 bits a channel"
        )
    if "transparency" in image.info:
        raise ImageProblem("has 16 bits a channel and a transparent value: save it with 8 bits, or without that value")
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    (bits, *_) = tags.get(TIFF_BITS, (16,))
    highest = 2**bits - 1
    values = np.asarray(image).astype(np.float64)
    if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        values = highest - values
    return Image.fromarray((values * (255 / highest)).round().clip(0, 255).astype(np.uint8))


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel lets a background through; decodes images that may have such pixels."""
    if not image.has_transparency_data or is_deep(image):
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(lowest, int) and lowest < 255


def opaque(image: Image.Image, background: str | None) -> Image.Image:
    """The image without its alpha channel, on the background where it is transparent."""
    layered = image.convert("RGBA")
    if is_transparent(layered):
        if background is None:
            raise ImageProblem("is transparent in places: say with dataset.background what it lies on, black or white")
        layered = Image.alpha_composite(Image.new("RGBA", layered.size, COLOURS[background]), layered)
    return layered.convert("L" if image.mode in GREY_MODES else "RGB")
