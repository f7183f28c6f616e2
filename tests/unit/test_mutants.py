"""The errors of ``make mutants`` can still be made. Whether tests see them is for that command to find out."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "mutants.py"))


def test_every_error_can_be_made():
    assert SCRIPT["problems"]() == [], "correct tests/mutants.yaml"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"before": "nowhere to be found"}, "is in training/loop.py 0 times"),
        ({"before": "epoch"}, "times, not once"),
        ({"tests": ["unit/test_nothing.py"]}, "there is no tests/unit/test_nothing.py"),
        ({}, "is in the table 2 times"),
    ],
)
def test_an_error_that_cannot_be_made_is_named(monkeypatch, change, said):
    mutant = next(mutant for mutant in SCRIPT["MUTANTS"] if mutant["file"] == "training/loop.py")
    changed = mutant | {"error": "another"} | change if change else mutant
    monkeypatch.setitem(SCRIPT["problems"].__globals__, "MUTANTS", [mutant, changed])
    (problem,) = SCRIPT["problems"]()
    assert said in problem and repr(changed["error"]) in problem
