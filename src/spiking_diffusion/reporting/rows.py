"""The rows of a suite's table: runs that differ in nothing but their seed are one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spiking_diffusion.config import Model, Params

UNUSED: dict[Model, set[str]] = {"spiking-diffusion": {"fsvae"}, "fsvae": {"vqsvae", "sdid", "tune"}}
"""Sections of a recipe that a run of each kind does not read."""


@dataclass(frozen=True)
class Row:
    """``runs`` by name, one for each seed; ``settings`` are those in which the suite's runs of this model on this
    dataset differ."""

    dataset: str
    model: Model
    runs: list[str]
    settings: dict[str, Any]


def rows_of(params: Params, suite: str) -> list[Row]:
    """The rows of a suite, in the order of their first runs."""
    found: list[tuple[str, Model, dict[str, Any], dict[int, str]]] = []
    for name in params.suites[suite]:
        run = params.resolve(name)
        unused = UNUSED[run.model] | {"seed"}
        settings = {k: v for k, v in leaves(run.recipe.model_dump()) if k.split(".")[0] not in unused}
        seed = run.recipe.seed
        for dataset, model, other, names in found:  # the same run under another name is no second seed
            if (dataset, model, other) == (run.dataset_name, run.model, settings) and seed not in names:
                names[seed] = name
                break
        else:
            found.append((run.dataset_name, run.model, settings, {seed: name}))

    return [
        Row(
            dataset,
            model,
            list(names.values()),
            {
                key: value
                for key, value in settings.items()
                if any(value != others[key] for d, m, others, _ in found if (d, m) == (dataset, model))
            },
        )
        for dataset, model, settings, names in found
    ]


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below ``section``, by its dotted key."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
