"""What all images of a part of a data set have in common: sizes, colours, and that they can be read.

The header of every image is read, the end of its content is looked at, and some images are decoded whole: those whose
end is not as it should be, and a sample of the others. So a damaged file is found before anything runs.
"""

import contextlib
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from PIL import Image

from workloads.config import DatasetConfig
from workloads.data.cache import cache_folder, replacing
from workloads.data.decoding import (
    GREY_MODES,
    Encoded,
    ImageProblem,
    is_deep,
    is_transparent,
    opened,
    orientation,
    plain,
    scaled,
)
from workloads.data.fingerprints import joined

DECODED = 256  # images of a part that are decoded on trial, spread evenly over it
KEPT_FROM = 2000  # images: surveys of fewer are quick enough to be made each time
TAIL = 64
VERSION = 1

Size = tuple[int, int]


@dataclass
class Survey:
    """What the headers of a part's images say.

    Attributes:
        images: their number.
        first: mode of the first one.
        size: (height, width) of the first one, upright.
        others: images of another size; `other` is the first of them, as `place: 30×90`.
        grey: grey images; `grey_place` and `colour_place` name the first of each kind.
        turned: images that EXIF turns.
        deep: grey images of 16 bits.
        frames: files of several frames.
        transparent: images with transparent pixels; `transparent_place` is the first.
    """

    images: int = 0
    first: str = ""
    size: Size = (0, 0)
    others: int = 0
    other: str = ""
    grey: int = 0
    grey_place: str = ""
    colour_place: str = ""
    turned: int = 0
    deep: int = 0
    frames: int = 0
    transparent: int = 0
    transparent_place: str = ""

    def add(self, image: Image.Image, place: str) -> None:
        """Take in one image of which the header is read."""
        turn = orientation(image)
        height, width = (image.width, image.height) if turn >= 5 else (image.height, image.width)
        if self.images == 0:
            self.first, self.size = image.mode, (height, width)
        self.images += 1
        if (height, width) != self.size:
            self.others += 1
            self.other = self.other or f"{place}: {height}×{width}"
        if image.mode in GREY_MODES:
            self.grey += 1
            self.grey_place = self.grey_place or place
        else:
            self.colour_place = self.colour_place or place
        self.turned += turn > 1
        self.deep += is_deep(image)
        self.frames += image.format != "MPO" and getattr(image, "n_frames", 1) > 1
        if is_transparent(image):
            self.transparent += 1
            self.transparent_place = self.transparent_place or place


def survey(images: Iterable[tuple[Encoded, str]], count: int) -> Survey:
    """Look at every image of a part.

    Args:
        images: each with its place, for messages.
        count: how many there are.

    Raises:
        ValueError: one cannot be read; the message names it.
    """
    found, every = Survey(), max(1, count // DECODED)
    with warnings.catch_warnings():  # Pillow warns of odd tags; what matters raises
        warnings.simplefilter("ignore")
        for number, (image, place) in enumerate(images):
            with opened(image, place) as header:
                found.add(header, place)
                if is_deep(header) and number % every:
                    _check_range(header)
                if number % every == 0 or number == count - 1 or not ends_well(image, header.format):
                    plain(header, "black").convert("RGB").load()
    return found


def _check_range(image: Image.Image) -> None:
    """Refuse a mode without a range; the pixels are not needed for that."""
    tiny = Image.new(image.mode, (1, 1))
    tiny.format = image.format
    scaled(tiny)


def ends_well(image: Encoded, format_name: str | None) -> bool:
    """Whether the content ends as its format says; a cut-off file does not. Other formats are to be decoded."""
    if isinstance(image, bytes):
        size, tail, head = len(image), image[-TAIL:], image[:8]
    else:
        with image.open("rb") as file:
            head = file.read(8)
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            tail = file.read()
    if format_name in ("JPEG", "MPO"):
        return tail.endswith(b"\xff\xd9")
    if format_name == "PNG":
        return tail.endswith(b"IEND\xaeB`\x82")
    if format_name == "WEBP":
        return size >= int.from_bytes(head[4:8], "little") + 8
    return False


def kept_survey(name: str, images: Iterable[tuple[Encoded, str]], count: int) -> Survey:
    """The survey of this name (which has to say what content it is of) from the cache folder, made where it lacks."""
    place = cache_folder() / "surveys" / f"{name}-{VERSION}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        read: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        return Survey(**{**read, "size": tuple(read["size"])})
    found = survey(images, count)
    if count >= KEPT_FROM:
        with contextlib.suppress(OSError, ValueError), replacing(place) as file:
            file.write(json.dumps(asdict(found), ensure_ascii=False).encode())
    return found


@dataclass(frozen=True)
class Form:
    """How the images of a data set are brought to one form.

    Attributes:
        shape: (C, H, W).
        resize: shorter side before the centre is cut out, or None.
        background: what transparent images lie on, or None.
        notes: sentences on what is done to some images.
        fingerprint: of the files and of how they are read.
    """

    shape: tuple[int, int, int]
    resize: int | None
    background: str | None
    fingerprint: str
    notes: tuple[str, ...] = field(default=())

    def cache_name(self, part: str, column: str = "") -> str:
        """The name by which a part's decoded images are kept."""
        channels, height, width = self.shape
        how = joined(str(VERSION), str(self.resize), str(self.background), column)[:8]
        return f"{self.fingerprint}-{part}-{channels}x{height}x{width}-{how}"


def form_of(config: DatasetConfig, surveys: dict[str, Survey], mark: str) -> Form:
    """The form of a data set's images, from all of them and the settings.

    Args:
        surveys: of the parts that are read, the training images first.
        mark: the files' fingerprint.

    Raises:
        ValueError: the images have several sizes, or transparent pixels, and no setting says what to do.
    """
    parts = list(surveys.values())
    train = parts[0]
    for found in parts:
        if found.transparent and config.background is None:
            raise ImageProblem(
                f"{found.transparent_place} is transparent in places ({found.transparent} images in all): say with "
                f"dataset.background what they lie on, black or white"
            )
    images, grey = sum(found.images for found in parts), sum(found.grey for found in parts)
    channels = config.channels or (1 if grey == images else 3)
    height, width = (config.size, config.size) if config.size else _common_size(surveys)
    as_before = config.channels is not None or channels == (1 if train.first == "L" else 3)
    if not as_before or any(found.deep or found.turned for found in parts):
        mark = joined(mark, "upright, by range, coloured as all images")  # earlier versions read other pixels
    form = Form((channels, height, width), config.resize, config.background, mark)
    return replace(form, notes=tuple(_notes(surveys, config, channels)))


def _common_size(surveys: dict[str, Survey]) -> Size:
    (height, width), *_ = [found.size for found in surveys.values()]
    for part, found in surveys.items():
        different = found.other
        if found.size != (height, width):
            different = f"the first of {part}: {found.size[0]}×{found.size[1]}"
        if different:
            raise ValueError(
                f"the images have different sizes (the first is {height}×{width} pixels, {different}): give "
                f"dataset.size, to which all are brought"
            )
    return height, width


def _notes(surveys: dict[str, Survey], config: DatasetConfig, channels: int) -> Iterator[str]:
    """What is done to some of the images."""
    count = {
        name: sum(getattr(found, name) for found in surveys.values())
        for name in ("images", "grey", "turned", "deep", "frames", "transparent")
    }
    if 0 < count["grey"] < count["images"]:
        place = next(found.grey_place for found in surveys.values() if found.grey_place)
        yield (
            f"Grey images among coloured ones: {count['grey']} of {count['images']}, first {place}; all are read in "
            f"{'RGB' if channels == 3 else 'grey'}, dataset.channels chooses."
        )
    for name, what in (
        ("turned", "Images turned as their EXIF orientation says"),
        ("deep", "Images of 16 bits, scaled to 8 by their range (0…65535 becomes 0…255)"),
        ("frames", "Files of several frames, of which the first is read"),
        ("transparent", f"Images with transparent pixels, laid on {config.background}"),
    ):
        if count[name]:
            yield f"{what}: {count[name]}."
