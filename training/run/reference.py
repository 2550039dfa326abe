"""The finished run that another is compared with, and the effective throughput against it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Reference:
    """The finished run that another is compared with, usually Adam's.

    Attributes:
        name: of the run.
        final_loss: nats per token on the evaluation set after the last step.
        tokens: targets that the run was trained on.
    """

    name: str
    final_loss: float
    tokens: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a run folder or its summary.json. Raises ValueError that names `run.reference`."""
        file = path
        try:
            file = path / "summary.json" if path.is_dir() else path
            summary = json.loads(file.read_text())
            return cls(str(summary["name"]), float(summary["final_loss"]), int(summary["tokens"]))
        except OSError as error:
            raise ValueError(
                f"run.reference: cannot read {file} ({error.strerror}); "
                "it must be the folder of a finished run or its summary.json"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"run.reference: {file} is not the summary of a run with a final loss") from error


def effective_tokens_per_second(reference: Reference, evaluations: Iterable[dict[str, Any]]) -> float:
    """The effective throughput of arXiv 2502.07752 (Table 2), in tokens per second.

    The tokens that the reference was trained on, divided by the seconds of training until this run's first evaluation
    at or below the reference's final loss. 0.0 if there is none yet. `evaluations`: rows of kind "eval", in order.
    """
    for row in evaluations:
        if row["loss"] is not None and row["loss"] <= reference.final_loss and row["train_seconds"] > 0:
            return reference.tokens / row["train_seconds"]
    return 0.0
