"""Text to token rows: sources, tokenizer, data order, packing, and the loader that carries its own state."""

from data.errors import DataError, SourceUnavailable
from data.evaluation import EvaluationData
from data.loader import Batch, TrainingData
from data.tokenizer import check_vocabulary, load_tokenizer

__all__ = [
    "Batch",
    "DataError",
    "EvaluationData",
    "SourceUnavailable",
    "TrainingData",
    "check_vocabulary",
    "load_tokenizer",
]
