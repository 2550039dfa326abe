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
