"""From the encoded images of a data set's parts to a source, whatever they lie in: files, tables or archives."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from workloads.config import DatasetConfig
from workloads.data.cache import memory_mapped
from workloads.data.decoding import Encoded
from workloads.data.fingerprints import joined
from workloads.data.samples import Samples, Source, StreamedSamples
from workloads.data.survey import form_of, kept_survey


@dataclass(frozen=True)
class EncodedPart:
    """The labelled images of one part, train or test.

    Attributes:
        images: N, each fetched when it is asked for.
        labels: (N,) int64.
        place: where the image of a number is, for messages.
    """

    images: Sequence[Encoded]
    labels: Tensor
    place: Callable[[int], str]

    def placed(self) -> Iterator[tuple[Encoded, str]]:
        """Every image with its place."""
        return ((image, self.place(number)) for number, image in enumerate(self.images))


def source_of(
    config: DatasetConfig,
    parts: Mapping[str, EncodedPart],
    mark: str,
    classes: Sequence[str],
    *,
    notes: Sequence[str] = (),
    label: str = "",
    published: Mapping[str, str] | None = None,
) -> Source:
    """The source of these parts, after a look at every image.

    Args:
        config: with `stream`, images are decoded batch by batch; else all of them once a node.
        parts: train, and test unless a share of train is held out.
        mark: the fingerprint of all that is read.

    Raises:
        ValueError: an image cannot be read, or they are of several sizes and no setting says what to do.
    """
    surveys = {name: kept_survey(joined(mark, name), part.placed(), len(part.images)) for name, part in parts.items()}
    form = form_of(config, surveys, mark)
    samples: dict[str, Samples] = {}
    for name, part in parts.items():
        streamed = StreamedSamples(
            part.labels, form.shape, part.images, form.resize, background=form.background, place=part.place
        )
        cached = functools.partial(memory_mapped, form.cache_name(name), streamed.decoded)
        samples[name] = streamed if config.stream else Samples(part.labels, form.shape, cached)
    return Source(
        samples["train"],
        samples.get("test", samples["train"]),
        tuple(classes),
        form.fingerprint,
        notes=(*notes, *form.notes),
        label=label,
        published=published or {},
    )
