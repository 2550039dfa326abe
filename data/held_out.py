"""The fixed set of rows that perplexity is measured on."""

import itertools

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.data_errors import DataError
from data.data_settings import Data
from data.packing import ids_of_a_document, labels, pad, rows
from data.sources import evaluation_source
from data.tokenizer import Encoder


class EvaluationData:
    """The first documents of the evaluation source, in the order of its files, up to `data.eval_tokens` targets.

    Rows are made as for training (`data.packing`, `data.sequence_length`), and the row that reaches the number is kept
    whole. The set is the same for every process, step, seed and optimizer.

    Attributes:
        input_ids: int32 array [rows, sequence_length].
        lengths: int32 array [rows], ids before the padding of each row.
        targets: positions that enter the loss, all rows.
        files: names of the files of the source.

    Raises:
        DataError: too few documents for `data.eval_tokens`, and what `TrainingData` raises.
        SourceUnavailable: a file cannot be fetched.
    """

    def __init__(self, section: Data, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int) -> None:
        encoder = Encoder(
            tokenizer, vocab_size, ids_of_a_document(section), special_tokens=section.special_tokens_in_text
        )
        source = evaluation_source(section)
        self.files: tuple[str, ...] = source.files
        document_number = itertools.count()
        texts = (text for file in range(len(source.files)) for _, text in source.read(file, 0))
        documents = ((next(document_number), 0, ids) for ids in encoder(texts))
        kept: list[list[int]] = []
        self.targets = 0
        length = section.sequence_length
        for row, _, _ in rows(documents, packing=section.packing, length=length, eos=encoder.eos):
            kept.append(row)
            self.targets += len(row) - 1
            if self.targets >= section.eval_tokens:
                break
        else:
            documents_read = next(document_number)
            if documents_read == 0:  # a file without any is refused when it is read
                raise DataError(f"{source.setting}: no document is held out; raise data.held_out={source.held_out:g}")
            no_row_is_full = section.packing and not kept
            lower = f"data.sequence_length={length} (no row is full)" if no_row_is_full else "data.eval_tokens"
            raise DataError(
                f"data.eval_tokens={section.eval_tokens}, but the {documents_read} documents of "
                f"{source.setting} give only {self.targets} targets; lower {lower} or give more text in "
                f"{'data.held_out' if source.held_out else 'data.eval_path'}"
            )
        self.input_ids, self.lengths = pad(kept, length, encoder.pad)

    def __len__(self) -> int:
        return len(self.input_ids)

    def batch(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Input ids and labels (not shifted, -100 at padding) of some rows, each int64 [rows, sequence_length]."""
        ids, lengths = self.input_ids[rows], self.lengths[rows]
        return torch.from_numpy(ids).long(), torch.from_numpy(labels(ids, lengths)).long()
