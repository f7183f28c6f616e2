"""All recipes in one table, as a page of the documentation."""

from __future__ import annotations

from typing import Any

from spiking_diffusion.artifacts import canonical_json
from spiking_diffusion.config import Params
from spiking_diffusion.graph.suites import leaves

HEADER = """\
# Recipes

`make generated` writes this page from `params.yaml`. It has every key of every recipe. Values that differ from
`{first}` are **bold**. `src/spiking_diffusion/config/recipes.py` says what each key means, and
[fidelity.md](fidelity.md) says why it has its value.

"""


def recipes_page(params: Params) -> str:
    """A Markdown table with one row per key and one column per recipe."""
    columns = {name: dict(leaves(recipe.model_dump())) for name, recipe in params.recipes.items()}
    first, *others = columns.values()
    lines = [["key", *columns], ["---"] * (1 + len(columns))]
    for key, value in first.items():
        cells = [_cell(other[key], bold=other[key] != value) for other in others]
        lines.append([f"`{key}`", _cell(value), *cells])
    return HEADER.format(first=next(iter(columns))) + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: Any, bold: bool = False) -> str:
    text = value if isinstance(value, str) else canonical_json(value).replace(",", ", ")
    return f"**{text}**" if bold else text
