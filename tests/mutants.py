"""Makes each error of ``mutants.yaml`` in a copy of the project, and says as Markdown which test sees it first.

Exit code 1 says that no test of the files named there sees an error. Tests without an error run before.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
MUTANTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/mutants.yaml").read_text(encoding="utf-8"))
NEEDED = ("src", "tests", "workflow", "params.yaml", "pyproject.toml")
"""What tests read."""
HEAD = """\
# Errors that tests see

The command `make mutants > docs/mutants.md` writes this page. It makes each error of `tests/mutants.yaml` in a copy of
the project, and runs the test files named there until one test fails. Seconds include waiting for other work on the
machine.

| error | first test that fails | seconds |
|---|---|---|"""
HEAVY = [
    *("pytest", "torch", "torch.utils.tensorboard", "torch_fidelity", "torchvision", "pandas"),
    *("scipy.stats", "sklearn.cluster", "sklearn.datasets", "spikingjelly.activation_based.neuron"),
]
"""Packages that are imported once for all errors; none of them knows the project."""


def source(mutant: Mapping[str, Any], root: Path = ROOT) -> Path:
    """The file that a mutant changes."""
    return root / "src/spiking_diffusion" / mutant["file"]


def problems() -> list[str]:
    """What is wrong with the table: a sentence for each mutant that cannot be made or has the name of another."""
    names = Counter(mutant["error"] for mutant in MUTANTS)
    found = [f"{name!r} is in the table {times} times: rename one" for name, times in names.items() if times > 1]
    for mutant in MUTANTS:
        times = source(mutant).read_text(encoding="utf-8").count(mutant["before"])
        if times != 1:
            found.append(f"{mutant['error']!r}: {mutant['before']!r} is in {mutant['file']} {times} times, not once")
        missing = [name for name in mutant["tests"] if not (ROOT / "tests" / name).is_file()]
        found += [f"{mutant['error']!r}: there is no tests/{name}" for name in missing]
    return found


class First:
    """A plugin of pytest that notes the first test that fails."""

    failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called after each test, its set-up and its end."""
        if report.failed:
            self.failed = self.failed or report.nodeid


def first_failure(tests: Sequence[str], mutant: Mapping[str, Any] | None = None) -> tuple[str, float]:
    """The first test that fails in a copy of the project, or "" if none does, and the seconds that this took.

    For a process of its own, whose folder and modules it changes.
    """
    import pytest

    start, first, said = time.perf_counter(), First(), io.StringIO()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy = Path(name).resolve()
        for part in NEEDED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, copy / part)
        if mutant:
            text = source(mutant, copy).read_text(encoding="utf-8")
            source(mutant, copy).write_text(text.replace(mutant["before"], mutant["after"]), encoding="utf-8")
        os.environ["PYTHONPATH"] = str(copy / "src")  # for processes that tests start
        sys.path.insert(0, str(copy / "src"))
        package = import_module("spiking_diffusion")
        if not Path(str(package.__file__)).is_relative_to(copy):
            raise RuntimeError(f"{package.__file__} was imported, which is not in the copy {copy}")
        with contextlib.chdir(copy), contextlib.redirect_stdout(said):
            options = ["-x", "--tb=short", "-p", "no:cacheprovider", "--basetemp", "tmp", "--rootdir", str(copy)]
            code = pytest.main([*options, *(f"tests/{name}" for name in tests)], plugins=[first])
    if code != (pytest.ExitCode.TESTS_FAILED if first.failed else pytest.ExitCode.OK):
        raise RuntimeError(f"pytest ended with {code!r}\n{said.getvalue()}")
    return first.failed.removeprefix("tests/"), time.perf_counter() - start


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="how many errors are tried at a time, 2 by default")
    parser.add_argument("-k", default="", metavar="WORDS", help="only errors that have these words in their name")
    options = parser.parse_args()
    if wrong := problems():
        raise SystemExit("\n".join(wrong))
    mutants = [mutant for mutant in MUTANTS if options.k in mutant["error"]]
    unseen, files = 0, sorted({name for mutant in mutants for name in mutant["tests"]})
    os.environ["OMP_WAIT_POLICY"] = "passive"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with ProcessPoolExecutor(options.jobs, context, max_tasks_per_child=1) as pool:
        without = [pool.submit(first_failure, [name]) for name in files]
        results = [pool.submit(first_failure, mutant["tests"], mutant) for mutant in mutants]
        for future in without:
            if failed := future.result()[0]:
                pool.shutdown(cancel_futures=True)
                raise SystemExit(f"{failed} fails without an error made on purpose")
        print(HEAD, flush=True)
        for mutant, future in zip(mutants, results, strict=True):
            failed, seconds = future.result()
            print(f"| {mutant['error']} | {f'`{failed}`' if failed else '**none**'} | {seconds:.0f} |", flush=True)
            unseen += not failed
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main())
