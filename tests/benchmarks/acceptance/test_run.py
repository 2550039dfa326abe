"""The way through checks: lines, errors, time, exit codes."""

import json

import pytest
import torch

from benchmarks.acceptance.items import Item, Measured, Setup, at_least, at_most, near
from benchmarks.acceptance.run import Run, chosen
from scripts import accept_gpu

CPU = Setup(torch.device("cpu"))


def broken():
    raise RuntimeError("no such kernel\nsecond line")


def good(setup):
    yield Item("first", lambda: [at_most("a", 1.0, 2.0), at_least("b", 1.0, 2.0), Measured("c", 3.0)])
    yield Item("second", broken)
    yield Item("third", lambda: [near("d", 1.14, 0.15)])


def bad(setup):
    raise ValueError("cannot begin")
    yield


def test_each_value_is_a_line_and_errors_do_not_end_it(capsys):
    run = Run(CPU, 60.0)
    run.through({"bad": bad, "good": good})
    assert capsys.readouterr().out.splitlines() == [
        "FAIL bad ValueError: cannot begin -",
        "PASS good.a 1 <= 2",
        "FAIL good.b 1 >= 2",
        "PASS good.c 3 -",
        "FAIL good.second RuntimeError: no such kernel -",
        "PASS good.d 1.14 1 +- 0.15",
    ]
    assert run.failures == 3
    rows = json.loads(json.dumps(run.rows))
    assert rows[3]["passed"] is None and "Traceback" in rows[4]["traceback"] and rows[1]["seconds"] >= 0


def test_what_the_time_does_not_allow_fails_as_not_run(capsys):
    run = Run(CPU, 0.0)
    run.started -= 1.0
    run.through({"good": good})
    assert capsys.readouterr().out == "FAIL good not run: 0 s are over -\n"
    assert run.failures == 1


def test_time_that_ends_within_a_check_ends_it(capsys):
    run = Run(CPU, 5.0)

    def slow(setup):
        yield Item("one", lambda: run.__setattr__("started", run.started - 10) or [Measured("a", 1.0)])
        yield Item("two", lambda: [Measured("b", 1.0)])

    run.through({"slow": slow})
    assert capsys.readouterr().out.splitlines() == ["PASS slow.a 1 -", "FAIL slow.two not run: 5 s are over -"]


def test_no_number_passes_no_limit():
    assert at_most("a", float("nan"), 1.0).passed is False
    assert at_least("a", float("nan"), 1.0).passed is False
    assert near("a", float("nan"), 0.1).passed is False
    assert at_most("a", 5.0, 1.0, asked=False).passed is None


def test_checks_are_chosen_by_name():
    checks = {"good": good, "bad": bad}
    assert list(chosen(checks, [])) == ["good", "bad"] and list(chosen(checks, ["bad"])) == ["bad"]
    with pytest.raises(ValueError, match="--only must be one of good, bad, got 'god'"):
        chosen(checks, ["god"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA")
def test_without_a_device_there_is_one_sentence(tmp_path, capsys):
    assert accept_gpu.main(["--out", str(tmp_path / "accept.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "no CUDA device" in captured.err
    assert not (tmp_path / "accept.json").exists()


def test_an_unknown_check_is_refused(capsys):
    with pytest.raises(SystemExit):
        accept_gpu.main(["--only", "speed"])
    assert "--only must be one of environment, contract" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("failures", "code"), [(0, 0), (1, 1), (300, 100)])
def test_the_exit_code_counts_failures(failures, code, tmp_path, monkeypatch, capsys):
    def check(setup):
        assert setup.speed and setup.device.type == "cuda"
        yield Item("lines", lambda: [at_most("a", 2.0, 1.0)] * failures + [Measured("name", "text")])

    monkeypatch.setattr(accept_gpu, "CHECKS", {"made up": check})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(accept_gpu, "set_precision", lambda: None)
    out = tmp_path / "accept.json"
    assert accept_gpu.main(["--out", str(out)]) == code
    found = json.loads(out.read_text())
    assert found["failures"] == failures and len(found["rows"]) == failures + 1
    assert capsys.readouterr().out.endswith(f"{failures} of {failures + 1} lines failed\n")
