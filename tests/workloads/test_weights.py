"""State dicts are read from the files in which networks are published, or refused in a sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from workloads.config import ModelConfig
from workloads.networks import checkpoints, weights
from workloads.networks.models import build

MODEL = ModelConfig(name="resnet10", width=0.0625)


def resnet(seed: int = 1) -> nn.Module:
    return build(MODEL, channels=1, classes=10, seed=seed)


def assert_reads(path: Path | str, expected: nn.Module) -> None:
    model = resnet(0)
    checkpoints.load_state(model, weights.read_state(path), str(path))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name


def sharded(folder: Path, state: dict[str, Tensor]) -> Path:
    names = sorted(state)
    parts = {f"model-0000{k}-of-00002.safetensors": names[k - 1 :: 2] for k in (1, 2)}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def test_a_file_in_shards_and_its_folder_are_read_and_every_shard_counts(tmp_path: Path) -> None:
    index = sharded(tmp_path, resnet().state_dict())
    assert_reads(index, resnet())
    assert_reads(tmp_path, resnet())
    before = weights.file_digest(tmp_path)
    assert weights.file_digest(index) == before
    sharded(tmp_path, resnet(2).state_dict())
    assert weights.file_digest(tmp_path) != before
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has a shard 'model-00002-of-00002.safetensors', which is not beside it"
    ):
        weights.read_state(tmp_path)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module.", "net.backbone."])
def test_words_in_front_of_all_names_are_left_out(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in resnet().state_dict().items()}
    torch.save(
        {"state_dict": state, "epoch": 3, "best": torch.tensor(0.9), "optimizer": {"state": {}}}, tmp_path / "a.pth"
    )
    assert_reads(tmp_path / "a.pth", resnet())


def test_an_average_of_weights_is_read_as_pytorch_writes_it(tmp_path: Path) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(resnet()).state_dict(), tmp_path / "ema.pt")
    assert_reads(tmp_path / "ema.pt", resnet())


def test_of_several_state_dicts_one_has_to_be_named(tmp_path: Path) -> None:
    file = tmp_path / "training.pth.tar"
    torch.save({"model": resnet(1).state_dict(), "model_ema": resnet(2).state_dict()}, file)
    with pytest.raises(
        ValueError, match=r"holds state dicts model, model_ema: name one, as in 'training.pth.tar#model'"
    ):
        weights.read_state(file)
    assert_reads(f"{file}#model", resnet(1))
    assert_reads(f"{file}#model_ema", resnet(2))
    assert weights.file_digest(f"{file}#model") != weights.file_digest(f"{file}#model_ema")
    with pytest.raises(ValueError, match=r"has no state dict 'emma': it has model, model_ema"):
        weights.read_state(f"{file}#emma")


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(resnet(), tmp_path / "whole.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "list.pt").read_bytes()[:-30])
    (tmp_path / "some.safetensors.index.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    for name, reason in {
        "whole.pt": r"holds more than tensors, which is not read since it could run code: save the network's",
        "list.pt": "holds list, not a state dict",
        "none.pt": "holds no state dict: its entries are epoch",
        "damaged.pth": "is not a file of torch.save, or it is damaged",
        "some.safetensors.index.json": "is not the index of a safetensors file in shards",
    }.items():
        with pytest.raises(ValueError, match=f"{name}' {reason}"):
            weights.read_state(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"is a folder without any of model.safetensors.index.json, "):
        weights.read_state(tmp_path / "empty")
    save_file(resnet().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"names an entry, but 'a.safetensors' has none: leave it out"):
        weights.read_state(f"{tmp_path / 'a.safetensors'}#model")
