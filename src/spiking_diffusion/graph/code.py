"""Which files of the package a stage runs: those that its module imports, directly or by way of others.

The imports are read from the source text, so nothing is imported and torch is not needed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
NAME = PACKAGE.name
HARNESS = ("api", "cli", "config", "errors", "graph", "locks", "paths", "progress", "provenance")
"""Modules and packages that decide when a stage runs and what it is told, but not what it computes. So does the package
``stages`` itself. Settings are compared on their own."""
FAMILIES = "families"
"""The package that imports the module of a run's family by its name."""


def code_of(modules: tuple[str, ...], family: str = "", package: Path = PACKAGE) -> tuple[Path, ...]:
    """Files, relative to ``package``, that ``modules`` consist of and import, without the harness.

    Modules are named as in ``stages.vqsvae``. ``family`` is the module of the family whose runs they work on. It counts
    where one of them imports ``families``.
    """
    found: set[str] = set()
    left = [part for module in modules for part in _prefixes(module)]
    while left:
        module = left.pop()
        if module in found or is_harness(module):
            continue
        found.add(module)
        left += _imports(_file(module, package), package)
        if module == FAMILIES and family:
            left += _prefixes(family)
    files = {_file(module, package) for module in found}
    files |= {data for file in files for data in _data_files(file)}
    return tuple(sorted(file.relative_to(package) for file in files))


def is_harness(module: str) -> bool:
    """Whether a module, named as in ``stages.vqsvae``, counts for no fingerprint."""
    return module.partition(".")[0] in HARNESS or module == "stages"


@cache
def digest(files: tuple[Path, ...], package: Path = PACKAGE) -> str:
    """SHA-256 over names and contents of files below ``package``."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.as_posix()}\n".encode())
        whole.update(hashlib.sha256((package / file).read_bytes()).digest())
    return whole.hexdigest()


@cache
def _imports(file: Path, package: Path) -> tuple[str, ...]:
    """Modules of the package that a file imports anywhere, with the packages that these are in."""
    found: list[str] = []
    for node in ast.walk(_tree(file)):
        match node:
            case ast.Import(names):
                found += [alias.name for alias in names]
            case ast.ImportFrom(module, names, 0) if module:
                # what is imported from a package can be one of its modules
                found += [module, *(f"{module}.{alias.name}" for alias in names)]
    own = [name.partition(".")[2] for name in found if name.startswith(f"{NAME}.")]
    with_packages = [part for name in own for part in _prefixes(name)]
    return tuple(dict.fromkeys(name for name in with_packages if _file(name, package).is_file()))


def _prefixes(name: str) -> Iterator[str]:
    """``snn.layers`` -> ``snn``, ``snn.layers``: importing a module runs its packages first."""
    parts = name.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts) + 1))


def _file(module: str, package: Path) -> Path:
    path = package.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _data_files(file: Path) -> Iterator[Path]:
    """Files beside a module whose names are strings in it, such as ``kernels.cpp``."""
    beside = {path.name: path for path in file.parent.iterdir() if path.suffix in (".cpp", ".yaml")}
    if beside:
        named = {node.value for node in ast.walk(_tree(file)) if isinstance(node, ast.Constant)}
        yield from (path for name, path in beside.items() if name in named)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())
