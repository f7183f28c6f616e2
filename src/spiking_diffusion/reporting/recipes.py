"""All recipes side by side, as a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spiking_diffusion.artifacts import canonical_json
from spiking_diffusion.config import Params

HEADER = """\
# Recipes

Generated from `params.yaml` by `make generated`: every key of every recipe, **bold** where it differs from `{first}`.
What a key means stands in `src/spiking_diffusion/config.py`, why it has its value in [fidelity.md](fidelity.md).

"""


def recipes_page(params: Params) -> str:
    """A Markdown table with one row per key and one column per recipe."""
    columns = {name: dict(_leaves(recipe.model_dump())) for name, recipe in params.recipes.items()}
    first, *others = columns.values()
    lines = [["key", *columns], ["---"] * (1 + len(columns))]
    for key, value in first.items():
        cells = [_cell(other[key], bold=other[key] != value) for other in others]
        lines.append([f"`{key}`", _cell(value), *cells])
    return HEADER.format(first=next(iter(columns))) + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _cell(value: Any, bold: bool = False) -> str:
    text = value if isinstance(value, str) else canonical_json(value).replace(",", ", ")
    return f"**{text}**" if bold else text
