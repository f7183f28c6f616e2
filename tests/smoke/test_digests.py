"""What `make quick` made, beside stored numbers of another machine; `make digests` stores those of this one.

CI runs this after `make quick`. Data and counts are exact. Numbers that come out of a training are not: the last bit of
a sum depends on the processor, and two trainings that differ by it end as far apart as two seeds.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).with_name("quick-digests.json")
RUNS = ("digits", "digits-best", "digits-fsvae")
# relative tolerance of what is trained, by the end of its name; docs/two-tools.md says where they come from
TOLERANCES = {"mse": 0.6, "ssim": 0.6, "bits_per_token": 0.3, "perplexity": 0.6}
OTHER_TRAINED = 0.8
NOT_EXACT = ("codes_used",)
BY_CHANCE = ("_deviation", "_error", "class_balance")
"""Spreads of a few numbers, which differ several times over between two trainings."""


def digests(results: Path) -> dict[str, Any]:
    """The data's content, free of how it was compressed, and the metrics of each run."""
    with np.load(results / "data/digits.npz") as arrays:
        data = {name: hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in sorted(arrays)}
    found: dict[str, Any] = {"data": data, **{run: {} for run in RUNS}}
    for run in RUNS:
        for kind in ("json", "notes.json"):
            row = json.loads((results / f"metrics/{run}.{kind}").read_text())
            found[run] |= {key: value for key, value in row.items() if not key.endswith(BY_CHANCE)}
    return found


def tolerance(key: str, value: Any) -> float:
    """Relative tolerance of a number; 0 where it is exact."""
    if not isinstance(value, float) and key not in NOT_EXACT:
        return 0.0
    return next((t for end, t in TOLERANCES.items() if re.search(rf"(^|_){end}$", key)), OTHER_TRAINED)


def differences(found: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """A line for each number that is further off than its tolerance, or there in one of the two alone."""
    lines = []
    for part in stored:
        for key in sorted(found[part].keys() | stored[part].keys()):
            now, then = found[part].get(key, "missing"), stored[part].get(key, "missing")
            room = tolerance(key, then)
            near = room and isinstance(now, int | float) and abs(now - then) <= room * max(abs(now), abs(then))
            if now != then and not near:
                lines.append(f"{part}.{key}: {now} here, {then} stored, tolerance {room:.0%}")
    return lines


@pytest.mark.quick
def test_quick_is_what_it_was_elsewhere() -> None:
    if not (ROOT / "results/tables/quick.csv").is_file():
        pytest.fail("run `make quick` first")
    assert differences(digests(ROOT / "results"), json.loads(STORED.read_text())) == []


def test_every_stored_number_can_fail() -> None:
    """Each number is seen when it is a sixth or six times as large, each word and hash when it is another."""
    stored = json.loads(STORED.read_text())
    assert differences(stored, stored) == []
    for part in stored:
        for key, value in stored[part].items():
            for other in [value * 6, value / 6] if isinstance(value, int | float) and value else ["other"]:
                assert differences(stored | {part: stored[part] | {key: other}}, stored), f"{part}.{key}"
        assert differences(stored | {part: {}}, stored)


if __name__ == "__main__":
    STORED.write_text(json.dumps(digests(ROOT / "results"), indent=2, sort_keys=True) + "\n")
    sys.stdout.write(f"{STORED.relative_to(ROOT)}\n")
