"""The final model, written for `from_pretrained`."""

import shutil
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.run.atomic import fsync
from training.run.disk import is_full
from training.run_errors import SaveError


def export_model(
    model: PreTrainedModel, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, path: Path
) -> None:
    """Write `model` with its whole `weights`, and the tokenizer, to the folder `path`: completely or not at all.

    `AutoModelForCausalLM` and `AutoTokenizer` open the folder with `from_pretrained`. Where `path` is a link, the
    folder that it names is replaced. Raises SaveError.
    """
    _name_tokens(model, tokenizer)
    final = path.resolve()
    temporary = final.with_name(final.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary, state_dict=dict(weights))  # a copy: transformers empties it
        tokenizer.save_pretrained(temporary)
        for file in (*temporary.iterdir(), temporary):
            fsync(file)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync(final.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (isinstance(error, OSError | SafetensorError) or is_full(error)):  # tokenizers has no class of its own
            raise
        raise SaveError(f"cannot write the model to {path}: {error}; its weights are in the last checkpoint") from error


def _name_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put the ids of BOS and EOS where `generate` looks. A generation config of model.init_from keeps its own."""
    assert model.generation_config is not None, "a causal LM has one"
    for key in ("bos_token_id", "eos_token_id"):
        identifier = getattr(tokenizer, key)
        if identifier is not None and identifier >= model.config.vocab_size:  # of a token that text never has
            identifier = None
        setattr(model.config, key, identifier)
        if getattr(model.generation_config, key) is None:
            setattr(model.generation_config, key, identifier)
