"""Reading YAML so that Snakemake and DVC cannot disagree about it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from spiking_diffusion.errors import UserError


class _Loader(yaml.SafeLoader):
    """Refuses a duplicate key even next to ``<<``. Both parsers accept it there, because merged keys may repeat."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.ScalarNode] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                problem = f'duplicate key "{key.value}": put its entries under that of line {first.start_mark.line + 1}'
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node


def read_yaml(path: str | Path) -> Any:
    """Parse a YAML file as Snakemake (YAML 1.1) and as DVC (YAML 1.2) do, and refuse it where they differ.

    The usual cases are ``1e-3``, ``off`` and ``012``. Duplicate keys are refused too, although YAML 1.1 parsers accept
    them.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): "
            "run this in the project's folder or name the file with --params"
        ) from None
    try:
        first, second = yaml.load(text, _Loader), YAML(typ="safe", pure=True).load(text)
        difference = _first_difference(first, second, "")
    except (yaml.MarkedYAMLError, MarkedYAMLError) as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path} is not valid YAML ({error.problem}{line}): fix it there") from None
    except (yaml.YAMLError, YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML ({' '.join(str(error).split())}): fix it there") from None
    if difference:
        key, one, two = difference
        raise UserError(
            f"{path}: {key or 'the file'} is {one!r} to Snakemake but {two!r} to DVC: "
            "write it plainly (0.001 for 1e-3, true or false, numbers without leading zeros)"
        )
    return first


def _first_difference(a: Any, b: Any, where: str) -> tuple[str, Any, Any] | None:
    """The first key at which two parsed files differ, and both values."""
    if isinstance(a, dict) and isinstance(b, dict) and len(a) == len(b):
        for one, two in zip(a, b, strict=True):
            if repr(one) != repr(two):
                return f"a key of {where or 'the file'}", one, two
        both = zip(a.items(), b.values(), strict=True)  # by order: a key can be NaN
        pairs = [(f"{where}.{key}".lstrip("."), x, y) for (key, x), y in both]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(f"{where}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        same = type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))
        return None if same else (where, a, b)
    return next((d for key, x, y in pairs if (d := _first_difference(x, y, key))), None)
