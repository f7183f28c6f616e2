"""An extension of Griffe: docstrings as Markdown for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):  # type: ignore[misc]
    """Fences examples, and replaces the two colons before a code block by one."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring:
            text = re.sub(r"::$", ":", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(
                r"^>>> .*?(?=\n\n|\Z)", r"```pycon\n\g<0>\n```", text, flags=re.MULTILINE | re.DOTALL
            )
