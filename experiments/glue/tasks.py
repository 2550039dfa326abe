"""The eight tasks of GLUE (arXiv 1804.07461) that GaLore's Table 4 reports, in the order of its columns."""

from dataclasses import dataclass
from typing import Literal

Score = Literal["accuracy", "f1", "matthews", "pearson"]


@dataclass(frozen=True)
class Task:
    """Columns and labels are those of the dataset nyu-mll/glue.

    title: heading of its column in tables; texts: the columns of one text or of a pair; labels: number of classes, 1
    for a score to be predicted; scores: by functions of `scores`, the first is the one that tables report; validation:
    name of the split that they are of.
    """

    title: str
    texts: tuple[str, ...]
    scores: tuple[Score, ...]
    labels: int = 2
    validation: str = "validation"

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number to be predicted."""
        return self.labels == 1


# GaLore's paper does not name the scores of its Table 4; docs/glue.md says why MRPC's is taken for F1.
TASKS = {
    "cola": Task("CoLA", ("sentence",), ("matthews",)),
    "stsb": Task("STS-B", ("sentence1", "sentence2"), ("pearson",), labels=1),
    "mrpc": Task("MRPC", ("sentence1", "sentence2"), ("f1", "accuracy")),
    "rte": Task("RTE", ("sentence1", "sentence2"), ("accuracy",)),
    "sst2": Task("SST-2", ("sentence",), ("accuracy",)),
    "mnli": Task("MNLI", ("premise", "hypothesis"), ("accuracy",), labels=3, validation="validation_matched"),
    "qnli": Task("QNLI", ("question", "sentence"), ("accuracy",)),
    "qqp": Task("QQP", ("question1", "question2"), ("accuracy", "f1")),
}
