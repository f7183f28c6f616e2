"""How images are drawn, as users of commands and of the demo page say it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

from spiking_diffusion.config import Sampler
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import Model


def checked_how(model: Model, how: dict[str, Any], shown: Callable[[str], str] = str, cure: str = "") -> dict[str, Any]:
    """``how`` itself, the keywords of ``model.sample``, if their values are possible and the model knows them.

    Raises UserError otherwise. ``shown`` gives the name that the user knows, ``cure`` ends the sentence on a value.
    """
    for name, value in how.items():
        whole, number = type(value) is int, type(value) in (int, float) and math.isfinite(value)
        fits = {
            "condition": whole,
            "guidance": number and value >= 0,
            "sampler": value in get_args(Sampler),
            "temperature": number and value > 0,
            "steps": whole and value >= 1,
            "seed": whole and 0 <= value < 2**63,
        }
        if not fits.get(name, True):
            raise UserError(f"{shown(name)} is {value}{cure}")
    known = {shown(name) for name in {"seed", *model.options}}
    for name in how:
        if shown(name) not in known:
            has = ", ".join(sorted(known))
            raise UserError(f"{model.config.name} was trained without what {shown(name)} sets: its options are {has}")
    return how
