"""Accuracy against the number of images that layers were solved on."""

from pathlib import Path

import pytest

from reports import figures
from reports.exhibits.calibration import images_of, others
from reports.exhibits.catalog import EXHIBITS
from reports.results.selection import tables_of
from tests.reports.test_exhibits import stored
from tests.reports.test_reports import evaluation


@pytest.mark.parametrize(
    ("label", "images", "rest"),
    [
        ("least-squares", 512, ""),
        ("least-squares(images=128)", 128, ""),
        ("least-squares(images=0, kernels=pointwise)", 0, "kernels=pointwise"),
        ("least-squares(count=64, images=synthetic)", None, "count=64"),
    ],
)
def test_the_label_of_a_repair_says_how_many_images(label: str, images: int | None, rest: str) -> None:
    assert images_of(label) == images
    assert others(label) == rest


def test_a_line_a_choice_of_neurons_and_a_panel_a_sparsity(tmp_path: Path) -> None:
    counts = {"least-squares(images=32)": 60.0, "least-squares(images=128)": 70.0, "least-squares": 80.0}
    rows = [
        evaluation(
            f"{criterion}{repair}{target}",
            criterion=criterion,
            method="conventional",
            repair=repair,
            target_sparsity=target,
            accuracy=accuracy - 10 * target,
        )
        for criterion in ("l1", "elimination")
        for target in (0.3, 0.5)
        for repair, accuracy in counts.items()
    ]
    rows.append(evaluation("data", method="folding", repair="data", target_sparsity=0.5, accuracy=50.0))
    synthetic = {"repair": "least-squares(images=synthetic)", "target_sparsity": 0.5}
    rows.append(evaluation("made up", method="folding", **synthetic, accuracy=55.0))
    base = {"stage": "baseline", "training_data": "whole", "final": False}
    rows.append(evaluation("base", accuracy=90.0, **base))
    ((name, figure),) = EXHIBITS["accuracy-against-images"].make(tables_of(stored(tmp_path, rows)))
    assert name == "accuracy-against-images-net"
    assert [axis.get_title() for axis in figure.axes] == ["30 %", "50 %"]
    lines = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 3]
    assert len(lines) == 2
    assert all(line.get_xydata().tolist() == [[32, 55], [128, 65], [512, 75]] for line in lines)
    texts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"l1, conventional", "elimination, conventional", "unpruned"} <= texts
    figure.canvas.draw()
    shown = {point.text: point.cells for point in figures.points_of(figure)}
    assert shown["50 %, elimination, conventional: 128, 65.00"] == ("eliminationleast-squares(images=128)0.5",)


def test_without_several_numbers_there_is_no_figure(tmp_path: Path) -> None:
    rows = [evaluation("a", method="folding", repair="least-squares", target_sparsity=0.5, accuracy=50.0)]
    assert list(EXHIBITS["accuracy-against-images"].make(tables_of(stored(tmp_path, rows)))) == []
