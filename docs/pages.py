"""A hook of MkDocs: pages of the site that are not Markdown files in ``docs/``.

They are made from files elsewhere in the project, the parser of the command line, the classes behind ``params.yaml``
and the docstrings. Markdown files have links for GitHub. The hook changes them to those of the site.
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spiking_diffusion.config import Params
from spiking_diffusion.parser import build_parser

ROOT = Path(__file__).parents[1]
CARDS = sorted(ROOT.glob("pretrained/*/README.md"))
COPIES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/README.md": "reference/results.md",
    **{f"pretrained/{card.parent.name}/README.md": f"pretrained/{card.parent.name}.md" for card in CARDS},
}
"""Markdown files outside ``docs/``, and their pages."""
FOLDERS = ("histories", "ladders")
"""Folders of ``docs/`` that pages link to; each gets a list of its files."""
API = {
    "Trained models": ["api.load", "families.Model", "families.spiking_diffusion.SpikingDiffusion"],
    "Settings": ["config.load_params", "config.Params"],
    "Networks": ["vqsvae.VQSVAE", "diffusion.SDID", "fsvae.FSVAE"],
    "Diffusion": ["diffusion.AbsorbingDiffusion", "diffusion.sampler"],
    "Spiking layers": ["snn.neuron.LIF", "snn.layers.SpikingLayer", "snn.readout"],
    "Measures": ["metrics.energy.count", "metrics.distances", "metrics.reconstruction"],
    "Errors": ["errors.UserError"],
}
"""Headings of the page on Python, and what is below each."""


def pages() -> dict[str, str]:
    """The Markdown of each page that is made here, by its path in the site."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in COPIES.items()}
    for folder in FOLDERS:
        files = sorted(path.name for path in (ROOT / "docs" / folder).iterdir())
        made[f"{folder}/index.md"] = f"# {folder.capitalize()}\n\n" + "".join(f"- [{name}]({name})\n" for name in files)
    made["tour.md"] = tour((ROOT / "docs/tour.py").read_text(encoding="utf-8"))
    made["reference/cli.md"] = cli_page()
    made["reference/params.md"] = params_page()
    made["reference/python.md"] = python_page()
    return made


def tour(source: str) -> str:
    """A notebook in percent format as Markdown."""
    text = ""
    for cell in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            text += re.sub(r"^# ?", "", body, flags=re.MULTILINE) + "\n"
        else:
            text += f"```python\n{body.strip()}\n```\n\n"
    return text


# --- reference ------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its help."""
    columns, os.environ["COLUMNS"] = (
        os.environ.get("COLUMNS"),
        "82",
    )  # argparse wraps at it, and a page has room for so many letters
    try:
        text = "# Command line\n\n"
        for parser in _parsers(build_parser()):
            text += f"## {parser.prog}\n\n```text\n{parser.format_help()}```\n\n"
    finally:
        os.environ.pop("COLUMNS")
        os.environ |= {"COLUMNS": columns} if columns else {}
    return text


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _parsers(inner)


def params_page() -> str:
    """Every section of ``params.yaml`` with its keys, from the JSON schema."""
    schema = Params.model_json_schema()
    text = (
        "# params.yaml\n\nEvery key is needed, unless a default is named. Unknown keys are refused. "
        "`spiking-diffusion schema` prints the JSON schema. "
        "[Recipes](../recipes.md) has the values of all recipes.\n\n"
    )
    sections = {"params.yaml, top level": {key: schema[key] for key in ("properties", "required")}} | schema["$defs"]
    for name, section in sections.items():
        text += f"## {name}\n\n{section.get('description', '')}\n\n| key | value |\n|---|---|\n"
        for key, value in section["properties"].items():
            default = f"; default `{json.dumps(value['default'])}`" if "default" in value else ""
            text += f"| `{key}` | {_kind(value)}{default} |\n"
        text += "\n"
    return text


def _kind(value: dict[str, Any]) -> str:
    """The allowed values of a key, in words."""
    if reference := value.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if both := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(_kind(one) for one in both)
    if "enum" in value:
        return ", ".join(f"`{json.dumps(one).strip(chr(34))}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "patternProperties" in value:
        return "names, each with " + " or ".join(_kind(one) for one in value["patternProperties"].values())
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])}: " + ", ".join(_kind(one) for one in value["prefixItems"])
    if value.get("type") == "array":
        return f"list of {_kind(value.get('items', {}))}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {value[key]:,}" for key, sign in signs.items() if key in value)
    return str(value.get("type", "any value")) + (f" {limits}" if limits else "")


def python_page() -> str:
    """The public names of the package, for mkdocstrings."""
    text = (
        "# Python\n\nShapes: images `(B, C, H, W)` in [0, 1], spikes `(T, B, C, H, W)`, tokens `(B, h, w)` int64.\n\n"
    )
    for heading, names in API.items():
        text += f"## {heading}\n\n" + "".join(f"::: spiking_diffusion.{name}\n\n" for name in names)
    return text


# --- links ----------------------------------------------------------------------------------------------


def relinked(text: str, page: str) -> str:
    """Markdown of a page with the links of the repository changed to those of the site."""
    sources = {made: source for source, made in COPIES.items()}
    home = posixpath.dirname(sources.get(page, f"docs/{page}"))

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        path = posixpath.normpath(posixpath.join(home, target))
        if path in COPIES:
            path = COPIES[path]
        elif path.startswith("docs/"):
            path = path.removeprefix("docs/")
            path = {"tour.py": "tour.md", **{name: f"{name}/index.md" for name in FOLDERS}}.get(path, path)
        return f"]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{anchor})"

    return re.sub(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", link, text)


# --- events of MkDocs -----------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of pages that are written by hand."""
    made = page.file.src_uri in ("reference/cli.md", "reference/params.md", "reference/python.md")
    return markdown if made else relinked(markdown, page.file.src_uri)
