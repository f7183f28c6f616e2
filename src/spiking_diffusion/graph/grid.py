"""The lines of ``params.yaml`` for a grid of variants of one run, as ``spiking-diffusion grid`` prints them.

DVC loops over the keys of ``params.yaml``, so every variant must be an entry there. This module only makes text: people
edit the file.
"""

from __future__ import annotations

import difflib
import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from spiking_diffusion.config import Params, Recipe, RunSettings, check_params
from spiking_diffusion.errors import UserError, sentence
from spiking_diffusion.graph.suites import leaves

WIDTH = 120


def grid_text(params: Params, run: str, sets: Sequence[str], seeds: str | None, suite: str) -> str:
    """The entries of a grid and its suite, in YAML.

    ``sets`` has ``KEY=VALUE,VALUE`` for each key of the recipe. The grid is their product, with every one of ``seeds``.
    A variant that ``params.yaml`` already has is in the suite under its name there, and gets no new entry.

    Raises UserError for whatever ``params.yaml`` would not accept, and for names that exist.
    """
    base = params.resolve(run)
    if suite in params.suites:
        raise UserError(f"suites.{suite} exists: choose another name with --suite")
    section = base.family.section
    values_of = _values_of_keys(base, sets if seeds is None else [*sets, f"seed={seeds}"])
    entries, names = _variants(params, base, values_of)

    raw = params.model_dump()
    raw[section].update(entries)
    raw["suites"][suite] = names
    check_params(raw, "params.yaml with the lines of this grid")

    lines = [f"{section}:", *(f"  {name}: {_flow(entry)}" for name, entry in entries.items())] if entries else []
    head = [
        f"# Paste these lines into params.yaml, under {f'`{section}:` and ' if entries else ''}`suites:`.",
        f"# Then run `make generated` and `snakemake --cores 8 {suite}`.",
    ]
    text = "\n".join([*head, *lines, "suites:", _suite(suite, names, len(values_of.get("seed", []))), ""])
    meant = repr({section: entries, "suites": {suite: names}} if entries else {"suites": {suite: names}})
    if not meant == repr(yaml.safe_load(text)) == repr(YAML(typ="safe", pure=True).load(text)):
        raise UserError("to Snakemake or DVC, a name in this grid is a number, true, false or null: choose another")
    return text


def _values_of_keys(base: RunSettings, options: Iterable[str]) -> dict[str, list[Any]]:
    """The values that are set for each key, as DVC reads YAML. Whether they fit is checked with the whole variant."""
    known = {key: value for key, value in _settings(base.recipe).items() if key.split(".")[0] not in base.family.unused}
    found: dict[str, list[Any]] = {}
    for option in options:
        key, _, text = map(str.strip, option.partition("="))
        try:
            values = YAML(typ="safe", pure=True).load(f"[{text}]")
        except (YAMLError, TypeError, ValueError, RecursionError):
            values = []
        if not values:
            raise UserError(f"{option[:60]!r} is not KEY=VALUE,VALUE such as vqsvae.k=0,0.5, with values in YAML")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or [each for each in known if each.endswith(f".{key}")]
            hint = f"did you mean {near[0]!r}?" if near else f"`spiking-diffusion show --run {base.name}` has all keys"
            raise UserError(f"--set has {key!r}, which is not a key that {base.name} reads: {hint}")
        found.setdefault(key, []).extend(values)
    return found


def _variants(
    params: Params, base: RunSettings, values_of: Mapping[str, list[Any]]
) -> tuple[dict[str, Any], list[str]]:
    """The new entries by name, and the names of all runs of the grid."""
    own = _settings(base.recipe)
    entries: dict[str, Any] = {}
    names: list[str] = []
    by_hand = "write the variant into params.yaml under another name, and run this command again"
    for values in itertools.product(*values_of.values()):
        recipe = _recipe(base.recipe, zip(values_of, values, strict=True))
        settings = {key: _settings(recipe)[key] for key in values_of}
        changed = {key: value for key, value in settings.items() if value != own[key]}
        name = _name(base.name, changed, values_of)
        same = [
            run.name
            for run in map(params.resolve, params.all_runs)
            if (run.model, run.dataset_name, run.recipe) == (base.model, base.dataset_name, recipe)
        ]
        if same:
            name = name if name in same else same[0]
        elif name in params.all_runs:
            where = f"{params.family_of(name).section}.{name}"
            raise UserError(f"{where} is not the variant with {_flow(settings)}, which would get its name: {by_hand}")
        elif name not in entries:
            entry = _with(params.all_runs[base.name].model_dump(exclude_none=True), changed.items())
            entries[name] = {key: entry[key] for key in ("dataset", "recipe", "seed", *entry) if key in entry}
        if name in names:
            raise UserError(f"{name} is two variants, one with {_flow(settings)}: write each value once, or {by_hand}")
        names.append(name)
    return entries, names


def _recipe(recipe: Recipe, changed: Iterable[tuple[str, Any]]) -> Recipe:
    try:
        return Recipe.model_validate(_with(recipe.model_dump(), changed))
    except ValidationError as error:
        raise UserError(sentence(error, "")) from None


def _settings(recipe: Recipe) -> dict[str, Any]:
    return dict(leaves(recipe.model_dump()))


def _with(raw: dict[str, Any], changed: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """``raw`` after setting values at dotted keys in it."""
    for key, value in changed:
        *path, last = key.split(".")
        section = raw
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return raw


def _name(run: str, changed: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The run's name and, for each changed key, its last part with the value: 025 for 0.25, and s1 for seed 1."""
    lasts = [key.split(".")[-1] for key in keys]
    parts = [run]
    for key, value in changed.items():
        last = key.split(".")[-1]
        title = last if lasts.count(last) == 1 else key.replace(".", "-")
        parts.append(f"s{value}" if key == "seed" else f"{title}-{value}".replace("--", "-minus-"))
    text = re.sub(r"\.0\b|\.", "", "-".join(parts))
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf")).strip()


def _suite(name: str, names: Sequence[str], seeds: int) -> str:
    """The line of a suite, or several: a new one for each variant with several seeds."""
    line = f"  {name}: [{', '.join(names)}]"
    if len(line) <= WIDTH:
        return line
    size = seeds if seeds > 1 else len(names)
    wrap = textwrap.TextWrapper(WIDTH - 5, break_on_hyphens=False)
    rows = "\n".join(wrap.fill(", ".join(names[i : i + size]) + ",") for i in range(0, len(names), size))
    return f"  {name}:\n    [{textwrap.indent(rows, ' ' * 5).strip(' ,')}]"
