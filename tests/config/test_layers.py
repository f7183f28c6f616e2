"""The layers of the package: every module has a place in the contract, and the picture shows the contract."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "docs/layers.py"))


def test_every_module_is_in_one_layer():
    package = ROOT / "src/spiking_diffusion"
    present = {path.stem for path in package.glob("*.py")} - {"__init__"}
    present |= {folder.name for folder in package.iterdir() if any(folder.glob("*.py"))}
    placed = [name for layer in SCRIPT["layers"]() for name in layer]
    assert sorted(placed) == sorted(present), "give each module one place in the layers of pyproject.toml"


def test_every_package_has_an_init():
    """``lint-imports`` skips a package without ``__init__.py``."""
    package = ROOT / "src/spiking_diffusion"
    bare = {module.parent.relative_to(ROOT).as_posix() for module in package.rglob("*.py")}
    bare -= {init.parent.relative_to(ROOT).as_posix() for init in package.rglob("__init__.py")}
    assert not bare, f"add __init__.py to {', '.join(sorted(bare))}"


def test_the_picture_is_up_to_date():
    drawn = (ROOT / "docs/layers.svg").read_bytes().decode()
    assert drawn == SCRIPT["picture"](), "docs/layers.svg is stale: run `make generated`"
