"""What runs at the paper's sizes have in common with its own: perplexities of others cannot stand beside them."""

from analysis.records import Record

MODELS = ("llama_60m", "llama_130m", "llama_350m", "llama_1_3b")
# One document of C4 a row, 512 rows a step, and the whole evaluation (App. F.3); a prepared store may hold C4's text.
PROTOCOL = {
    "model.vocab_size": (32_000,),
    "data.source": ("c4", "prepared"),
    "data.packing": (False,),
    "data.sequence_length": (256,),
    "data.eval_tokens": (10_000_000,),
    "train.batch_size": (512,),
}


def refusal_beside_the_paper(run: Record) -> str | None:
    """Why a run on one of the paper's models must not enter its tables; None if it may."""
    if run["summary"]["model"] not in MODELS:
        return None
    for name, allowed in PROTOCOL.items():
        section, key = name.split(".")
        value = run["settings"][section][key]
        if value not in allowed:
            return (
                f"{name} is {value}, but {allowed[0]} in the paper's runs, beside which it would be printed; make a "
                "study of it: scripts/collect_results.py STUDY --runs FOLDER"
            )
    return None
