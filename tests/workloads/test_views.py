"""Mirrored and shifted views stand for more images."""

import pytest
import torch
from torch import nn

from tests.workloads.solvable import images_of_noise, residual, seeded
from workloads.compression.compensation.views import with_views
from workloads.compression.compress import Sources, compress
from workloads.config import CompressionConfig, LeastSquaresConfig
from workloads.structure.network import Network


def test_views_of_an_image_follow_each_other_and_mirror_or_move_it() -> None:
    images = torch.arange(2 * 8 * 8.0).view(2, 1, 8, 8)
    found = with_views([images[:1], images[1:]], ["mirrored", "shifted"], seed=0)
    assert [len(batch) for batch in found] == [4, 4]
    for batch, image in zip(found, images, strict=True):
        assert torch.equal(batch[0], image)
        assert torch.equal(batch[1], image.flip(2))
        for number in (0, 1):
            padded = nn.functional.pad(batch[number : number + 1], (1, 1, 1, 1), mode="reflect")[0]
            moved = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
            assert any(torch.equal(batch[2 + number], each) for each in moved)
    assert with_views([images], [], seed=0)[0].equal(images)


def test_views_stand_for_more_images() -> None:
    def mirrored(images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([images, images.flip(3)], 1).flatten(0, 1)]

    images = images_of_noise()
    network = Network.prepared(seeded(residual), images[:1])
    views, given, without = (
        compress(network, CompressionConfig(sparsity=0.5, repair=repair), Sources(images[:1], images=shown))
        for repair, shown in (
            ({"name": "least-squares", "views": ["mirrored"]}, [images]),
            ("least-squares", mirrored(images)),
            ("least-squares", [images]),
        )
    )
    assert all(map(torch.equal, views.model.parameters(), given.model.parameters()))
    assert not all(map(torch.equal, views.model.parameters(), without.model.parameters()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": "synthetic", "views": ["mirrored"]}, "of made-up ones there may be more: raise count"),
        ({"views": ["mirrored", "mirrored"]}, "views has mirrored twice"),
    ],
)
def test_views_that_give_nothing_new_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressionConfig(sparsity=0.5, repair={"name": "least-squares", **settings})


def test_views_stand_in_the_label() -> None:
    config = LeastSquaresConfig(images=128, views=("mirrored", "shifted"))
    assert config.label == "least-squares(images=128, views=mirrored+shifted)"
