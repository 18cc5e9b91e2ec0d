"""Networks as folders of the Hub's layout are read by our loader, and by libraries where these can say the widths."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metaprune import CompressionConfig, Network, Sources, compress, from_pretrained
from workloads.config import ModelConfig
from workloads.networks.checkpoints import Description
from workloads.networks.folders import Images, preprocessor, read_by, write_folder
from workloads.networks.models import build
from workloads.structure.logits import logits_of

IMAGES = Images((3, 32, 32), 36, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), ("ant", "bee", "cat", "dog"))


def narrowed(name: str, options: dict[str, Any], kind: str | None) -> tuple[nn.Module, Description]:
    """A network of four classes of which half of the groups of a kind are left."""
    config = ModelConfig(name=name, options=options)
    model = build(config, channels=3, classes=4).eval()
    if kind:
        network = Network.prepared(model, torch.zeros(1, 3, 32, 32))
        scope = CompressionConfig(sparsity=0.5, kinds=(kind,), method="conventional")
        model = compress(network, scope, Sources(torch.zeros(1, 3, 32, 32))).model
    return model, Description(config.model_dump(mode="json"), 3, 4, 1)


def check(folder: Path, made: tuple[nn.Module, Description], reader: str) -> None:
    """What is written is read by our loader, and by a library or by none."""
    model, description = made
    written = write_folder(model, description, IMAGES, lambda library: f"read by {library}", folder)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(from_pretrained(folder)(images), model(images))
    assert written.reader == reader
    assert (folder / "README.md").read_text() == f"read by {reader}"
    if reader:
        torch.testing.assert_close(logits_of(read_by(reader, folder)(images)), model(images))


def vit_of_transformers(place: Path) -> str:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(place)
    return f"hf:{place}"


@pytest.mark.parametrize(("kind", "reader"), [(None, "transformers"), ("hidden", "transformers"), ("heads", "")])
def test_transformers_reads_what_its_configuration_can_say(tmp_path: Path, kind: str | None, reader: str) -> None:
    made = narrowed(vit_of_transformers(tmp_path / "vit"), {}, kind)
    (tmp_path / "vit").rename(tmp_path / "moved")
    check(tmp_path / "out", made, reader)
    if kind == "hidden":
        import transformers

        network = read_by(reader, tmp_path / "out")
        assert network.config.intermediate_size == 32
        assert network.config.id2label[3] == "dog"
        known = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out").to_dict()
        expected = preprocessor(IMAGES)
        assert [list(known[key]) for key in ("image_mean", "image_std")] == [
            expected["image_mean"],
            expected["image_std"],
        ]
        assert (known["size"]["shortest_edge"], known["crop_size"]["height"]) == (36, 32)


@pytest.mark.parametrize(("kind", "reader"), [(None, "timm"), ("hidden", "timm"), ("heads", "")])
def test_timm_reads_what_its_arguments_can_say(tmp_path: Path, kind: str | None, reader: str) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 36, "depth": 2, "num_heads": 4}
    check(tmp_path / "out", narrowed("timm:vit_tiny_patch16_224", options, kind), reader)
    if reader:
        known = read_by(reader, tmp_path / "out").pretrained_cfg
        assert (tuple(known["mean"]), tuple(known["input_size"])) == (IMAGES.mean, IMAGES.shape)
        assert known["label_names"] == list(IMAGES.classes)


def test_our_loader_reads_what_no_library_knows(tmp_path: Path) -> None:
    check(tmp_path / "out", narrowed("resnet10", {}, "channels"), "")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json and model.safetensors: give a folder that"):
        from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder './nowhere'"):
        from_pretrained("./nowhere")
    (tmp_path / "out/model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"was not written by `metaprune export --format hf`, or is damaged"):
        from_pretrained(tmp_path / "out")
