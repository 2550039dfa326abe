"""The final model: what opens it, and disks that do not take it."""

from pathlib import Path

import pytest
import torch
import transformers

from configs.schema import load
from data.tokenizer import load_tokenizer
from models.llama import build_model
from training.run.export import export_model
from training.run_errors import SaveError

SIZES = ("hidden_size=8", "intermediate_size=8", "num_hidden_layers=1", "num_attention_heads=2")


@pytest.fixture(scope="module")
def config():
    return load([f"model.{size}" for size in SIZES]).config


@pytest.fixture(scope="module")
def tokenizer(config):
    return load_tokenizer(config.data)


@pytest.fixture
def model(config):
    return build_model(config.model, dtype=torch.float32, seed=0)


def export(model, tokenizer, path) -> None:
    export_model(model, model.state_dict(), tokenizer, path)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_model_ends_a_text_where_its_tokenizer_does(model, tokenizer, tmp_path):
    with torch.no_grad():  # EOS is the likeliest after whatever has a hidden state of positive sum
        model.model.embed_tokens.weight.fill_(1)
        model.lm_head.weight.zero_()[tokenizer.eos_token_id] = 1
    export(model, tokenizer, tmp_path / "model")
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    for named in (opened.config, opened.generation_config):
        assert (named.bos_token_id, named.eos_token_id) == (again.bos_token_id, again.eos_token_id)
        assert named.pad_token_id is None
    made = opened.generate(torch.tensor([[5, 6]]), max_new_tokens=9, do_sample=False)
    assert made.tolist() == [[5, 6, again.eos_token_id]]


def test_a_generation_config_of_init_from_keeps_its_ids(model, tokenizer, tmp_path):
    model.generation_config = transformers.GenerationConfig(eos_token_id=[7, 9], temperature=0.5, do_sample=True)
    export(model, tokenizer, tmp_path / "model")
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert opened.generation_config.eos_token_id == [7, 9] and opened.config.eos_token_id == tokenizer.eos_token_id


def test_a_disk_that_the_tokenizer_finds_full_keeps_the_model_before(model, tokenizer, tmp_path, monkeypatch):
    export(model, tokenizer, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def full(*_):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(SaveError, match=r"^cannot write the model to .*model: No space left on device"):
        export(model, tokenizer, tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert names(tmp_path) == ["model"]


def test_nothing_is_left_of_an_export_that_a_defect_ends(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "save_pretrained", None)
    with pytest.raises(TypeError):
        export(model, tokenizer, tmp_path / "model")
    assert names(tmp_path) == []


def test_a_model_folder_that_is_a_link_stays_one(model, tokenizer, tmp_path):
    (tmp_path / "disk" / "mine").mkdir(parents=True)
    (tmp_path / "disk" / "mine" / "old.txt").touch()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "mine")
    export(model, tokenizer, tmp_path / "model")
    assert (tmp_path / "model").is_symlink() and names(tmp_path / "disk") == ["mine"]
    assert (tmp_path / "disk" / "mine" / "config.json").exists()
    assert not (tmp_path / "model" / "old.txt").exists()
