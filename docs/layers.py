"""Draw docs/layers.svg from the contract "layers" in pyproject.toml and the modules' docstrings.

`make generated` runs this, and tests/config/test_layers.py fails when the picture is stale.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LAYERS, LIBRARY = (next(c for c in CONTRACTS if c["id"] == key) for key in ("layers", "library"))

WIDTH, MARGIN, GUTTER, GAP, PADDING, LINE = 1000, 20, 36, 10, 12, 17  # pixels; the gutter holds the arrow
LETTER = 6.7  # average width at 12 px in a wide font, so that the words fit in whatever font the reader has
SANS = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def layers() -> list[list[str]]:
    """The modules of each layer, from top to bottom."""
    return [[name.strip(" ()") for name in layer.split("|")] for layer in LAYERS["layers"]]


def wrapped(name: str, letters: int) -> list[str]:
    """The first sentence of a module's docstring in at most three lines."""
    package = ROOT / "src" / LAYERS["containers"][0]
    file = package / f"{name}.py" if (package / f"{name}.py").exists() else package / name / "__init__.py"
    paragraph = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    sentence = re.split(r"\.(?:\s+(?=[A-Z])|$)", paragraph)[0].replace("``", "")
    lines = textwrap.wrap(sentence, letters, max_lines=3, placeholder=" …")
    return [re.sub(r"[,:;]? …$", " …", line) for line in lines]


def picture() -> str:
    """The text of the SVG file."""
    library = {name.rpartition(".")[2] for name in LIBRARY["source_modules"]}
    left, top, boxes = MARGIN + GUTTER, MARGIN, []
    for row in layers():
        width = (WIDTH - MARGIN - left - GAP * (len(row) - 1)) / len(row)
        words = [wrapped(name, int((width - 2 * PADDING) / LETTER)) for name in row]
        height = 2 * PADDING + LINE * (1 + max(map(len, words)))
        for i, (name, lines) in enumerate(zip(row, words, strict=True)):
            x = left + i * (width + GAP)
            box = f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="{height}" rx="6"'
            boxes.append(f'<rect class="{"library" if name in library else "other"}" {box}/>')
            boxes.append(f'<text class="name" x="{x + PADDING:.1f}" y="{top + PADDING + 11}">{name}</text>')
            for n, line in enumerate(lines, 1):
                y = top + PADDING + LINE * n + 14
                boxes.append(f'<text x="{x + PADDING:.1f}" y="{y}">{escape(line, quote=False)}</text>')
        top += height + GAP
    end, x, middle, height = top - GAP, MARGIN + 14, (MARGIN + top - GAP) // 2, top + 30
    note = "Modules in a row do not import one another. Blue: the library, which does not import the pipeline."
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">
<title>The layers of the package: imports go down only</title>
<style>
text {{ font: 12px {SANS}; fill: #57606a }} .name {{ font: 600 14px {MONO}; fill: #1f2328 }}
.library {{ fill: #ddf0ff; stroke: #80b4e8 }} .other {{ fill: #f6f8fa; stroke: #c4ccd4 }}
</style>
<rect width="{WIDTH}" height="{height}" fill="white"/>
<path d="M {x} {MARGIN} V {end - 1} m -5 -7 l 5 7 l 5 -7" fill="none" stroke="#8c959f" stroke-width="1.5"/>
<text x="{x - 7}" y="{middle}" text-anchor="middle" transform="rotate(-90 {x - 7} {middle})">imports go down only</text>
{chr(10).join(boxes)}
<text x="{left}" y="{top + 13}">{note}</text>
</svg>
"""


if __name__ == "__main__":
    (ROOT / "docs" / "layers.svg").write_text(picture(), encoding="utf-8", newline="\n")
