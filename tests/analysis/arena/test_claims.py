"""The paper's claims: each study's answer beside the others', from its records alone."""

import re

from analysis.arena.ledger import Ledger
from analysis.arena.tables import study_of, tuned_at_their_length
from analysis.tables.claims import Study, claims
from experiments.nano_files import file_of
from tests.analysis.arena.on_paper import CELL, loss_of, made
from tests.analysis.test_tables import cells
from tests.made_records import kept


def runs_of(**finals):
    """Runs whose perplexity ends near these values, one for each seed."""
    return {row: [kept(file_of(row), seed, final) for seed, final in enumerate(found)] for row, found in finals.items()}


def test_a_claim_says_that_a_row_never_reaches_adams_loss():
    (claim,) = cells(
        claims([Study("one", runs_of(adam=[100], alice=[110]))]),
        claim="Alice is sooner at tuned Adam's final loss",
    )
    assert claim["one"] == "no: never there"


def test_a_claim_says_on_how_many_seeds_a_row_reaches_adams_loss():
    runs = runs_of(adam=[100, 100], alice=[97, 110])
    (claim,) = cells(claims([Study("one", runs)]), claim="Alice is sooner at tuned Adam's final loss")
    assert re.fullmatch(r"no: on 1 of 2 seeds 1\.\d\dx in steps", claim["one"])


def test_studies_answer_side_by_side_and_one_without_an_answer_is_left_out():
    small = Study("small batch", runs_of(adam=[100, 101], racs=[110, 111]))
    large = Study("large batch", runs_of(adam=[100, 101], racs=[90, 91], galore=[95], fira=[94]))
    table = claims([small, Study("Muon alone", runs_of(muon=[80])), large])
    assert table.columns == ["claim", "paper", "small batch", "large batch"]
    (racs,) = cells(table, claim="RACS before Adam")
    assert racs["small batch"].startswith("no: ") and racs["large batch"].startswith("yes: ")
    (fira,) = cells(table, claim="Fira before GaLore")
    assert fira["small batch"] == "" and fira["large batch"].startswith("yes, but not clearly: ")
    assert not cells(table, claim="Alice before Adam")


def test_rows_are_compared_on_the_seeds_that_they_share():
    (racs,) = cells(claims([Study("one", runs_of(adam=[100, 100], racs=[99, 99, 150]))]), claim="RACS before Adam")
    assert racs["one"].startswith("yes")


def test_an_arenas_rows_answer_by_their_style_unless_a_seed_diverged(spec, tmp_path):
    ledger = Ledger(tmp_path / "small.jsonl")
    spec.rows["plain_racs"].style = "ablation_racs_no_ema"
    made(spec, ledger, loss_of)
    table = claims([study_of(spec, ledger, CELL)])
    assert [row[0] for row in table.rows] == [
        "RACS before Adam", "RACS before RACS without averaging", "RACS is sooner at tuned Adam's final loss"
    ]  # fmt: skip
    next(line for line in ledger.lines.values() if line["row"] == "racs" and line["seed"] == 1)["loss"] = None
    assert claims([study_of(spec, ledger, CELL)]).rows == []


def test_an_arena_that_tunes_at_another_length_has_no_say(spec, tmp_path):
    arena = spec, Ledger(tmp_path / "small.jsonl")
    assert tuned_at_their_length([arena]) == []
    spec.tuning.tokens = spec.tokens
    assert tuned_at_their_length([arena]) == [arena]
