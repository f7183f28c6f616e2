"""The command line: one sub-command per stage of the pipeline.

Every command works on the project's folder, the working directory or ``--root``: it writes below ``results/`` there.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiking_diffusion import artifacts, environment, locks, paths
from spiking_diffusion.config import Params, load_params
from spiking_diffusion.errors import UserError, refused, unknown
from spiking_diffusion.graph.dvc import dvc_yaml
from spiking_diffusion.graph.grid import grid_text
from spiking_diffusion.graph.jobs import job_of
from spiking_diffusion.graph.stages import FLAGS, STAGES, Stage
from spiking_diffusion.graph.suites import pages_of
from spiking_diffusion.parser import build_parser
from spiking_diffusion.reporting.recipes import recipes_page
from spiking_diffusion.stages import make

# Modules that import torch are imported inside the commands: `--help` and bad input answer at once.
if TYPE_CHECKING:
    from spiking_diffusion.families import Model


log = logging.getLogger(__name__)
SHOWN = (".md", ".json", ".csv")
"""Main outputs that are printed when a command has made them. Of others the path is printed."""
HOW = ("condition", "guidance", "sampler", "temperature", "steps", "seed")
"""How a picture is drawn, as far as options say it; ``condition`` is called --class there."""


def _how(args: argparse.Namespace, model: Model) -> dict[str, Any]:
    """The options on how a picture is drawn that were given, for a model that has them."""
    from spiking_diffusion.families.options import checked_how

    how = {name: getattr(args, name) for name in HOW if getattr(args, name) is not None}
    return checked_how(model, how, _option, f": see `spiking-diffusion {args.command} --help`")


def _option(name: str) -> str:
    return "--class" if name == "condition" else f"--{name}"


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    The exit code is 0, 1 if ``verify`` or ``prune`` found something, or 2 after one sentence on stderr about what the
    user can fix.
    """
    gc.set_threshold(100_000)  # torch brings half a million objects that stay: by default, 1000 searches for garbage
    environment.settle()
    before = threading.excepthook
    threading.excepthook = lambda _: None  # an error of TensorBoard's thread comes out of the next call as well
    try:
        args = build_parser().parse_args(argv)
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        return _run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint, if there is one", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        what = f"failed on {error.filename}" if error.filename else "failed"
        print(f"error: {refused(what, error)}", file=sys.stderr)
        return 2
    finally:
        threading.excepthook = before
    return 0


def _run(args: argparse.Namespace) -> int:
    if args.command == "schema":
        print(json.dumps(Params.model_json_schema(), indent=2, sort_keys=True))
        return 0
    params = load_params(args.params)
    if args.root is not None:
        _enter(args)
    if args.command in ("sync", "verify", "prune"):
        return _upkeep(args, params)
    if "stages" in args:
        _make(args, params)
    else:
        _do(args, params)
    return 0


def _enter(args: argparse.Namespace) -> None:
    """Make ``--root`` the working directory. Other paths that were given keep their meaning. Raises UserError."""
    environment.make_absolute()
    args.params = str(Path(args.params).absolute())
    given = {name: path.absolute() for name, path in vars(args).items() if isinstance(path, Path)}
    vars(args).update(given)
    try:
        os.chdir(args.root)
    except OSError as error:
        raise refused(f"cannot work in {args.root}", error) from error


def _make(args: argparse.Namespace, params: Params) -> None:
    """Do the job of a stage, or draw a picture by the command of one."""
    of_command = [stage for stage in STAGES.values() if stage.command == args.stages]
    if args.command == "sample" and _is_picture(args):
        _on_device(of_command[0], lambda: _draw_picture(args, params))
        return
    asked = {option: getattr(args, option) for stage in of_command for option in stage.options}
    options = {option: value for option, value in asked.items() if value is not False}
    job = job_of(params, args.stages, getattr(args, FLAGS[of_command[0].over]), **options)
    with locks.alone(*job.outputs) as waited:
        if waited and job.is_made():
            log.info("%s is there now, made with the same settings from the same files", job.out)
        elif job.spec.gpu:
            _on_device(job.spec, lambda: make(job, args.device))
        else:
            make(job)
    shown = next((path for path in job.outputs if path.suffix == ".md"), job.out)
    print(shown.read_text(encoding="utf-8").rstrip("\n") if shown.suffix in SHOWN else shown)


def _on_device(stage: Stage, compute: Callable[[], object]) -> None:
    import torch

    try:
        compute()
    except torch.OutOfMemoryError as error:
        section = stage.threads.removesuffix(".threads")  # the batch size is next to the number of threads
        raise UserError(
            f"the GPU's memory is full ({str(error).splitlines()[0]}): lower "
            f"{section}.batch_size in params.yaml, or pass --device cpu"
        ) from error


def _is_picture(args: argparse.Namespace) -> bool:
    """Whether ``sample`` draws a picture. Raises UserError where -n and --out ask for something else."""
    if args.n is not None and not 1 <= args.n <= 10_000:
        raise UserError(f"-n is {args.n}: ask for 1 to 10000 images")
    if args.n is not None and args.out is None:
        raise UserError(
            "-n without --out would make results/samples differ from params.yaml: add --out FILE.png, "
            "or change sample.n of the run"
        )
    given = [name for name in HOW if getattr(args, name) is not None]
    if given and args.out is None:
        raise UserError(f"{_option(given[0])} is for pictures: add --out FILE.png, or change the recipe of the run")
    if args.out is None and args.pretrained:
        raise UserError("--pretrained draws a picture: add --out FILE.png")
    if args.out is not None:
        _check_png(args.out)
    return args.out is not None


def _check_png(path: Path) -> None:
    if path.suffix != ".png":
        raise UserError(f"--out is {str(path)!r}: give a name that ends in .png")


def _model(args: argparse.Namespace, params: Params) -> Model:
    """The model that ``--run`` or ``--pretrained`` names."""
    from spiking_diffusion import families
    from spiking_diffusion.devices import pick_device

    device = pick_device(args.device or params.device)
    if args.pretrained:
        return families.load_pretrained(paths.pretrained_path(args.pretrained), device)
    return families.load(params.resolve(args.run), device)


def _draw_picture(args: argparse.Namespace, params: Params) -> None:
    from spiking_diffusion.stages.sample import write_picture

    model = _model(args, params)
    write_picture(model, args.n or 64, args.out, **_how(args, model))
    print(args.out)


def _inpaint(args: argparse.Namespace, params: Params) -> None:
    from spiking_diffusion.inpainting import inpaint

    if not 1 <= args.n <= 1000:
        raise UserError(f"-n is {args.n}: ask for 1 to 1000 completions")
    _check_png(args.out)
    model = _model(args, params)
    inpaint(model, args.image, args.mask, args.n, args.out, **_how(args, model))
    print(args.out)


def _demo(args: argparse.Namespace, params: Params) -> None:
    from spiking_diffusion.demo import serve

    with serve(args.port, args.device or params.device, environment.cores()) as server:
        print(f"http://127.0.0.1:{server.server_port} (Ctrl+C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("ended")


def _export(args: argparse.Namespace, params: Params) -> None:
    if args.nir is None:
        from spiking_diffusion.pretrained import export

        if args.pretrained:
            raise UserError(f"--pretrained {args.pretrained} has its model card already: add --nir DIR for NIR files")
        print(export(params, args.run, args.folder or paths.pretrained_path(args.run), args.half))
        return
    if args.folder or args.half:
        other = "--folder" if args.folder else "--half"
        raise UserError(f"{other} is for copies of the weights, --nir writes NIR files alone: leave one of them out")
    from spiking_diffusion.exchange import write_nir

    print(*write_nir(_model(args, params), args.nir), sep="\n")


def _do(args: argparse.Namespace, params: Params) -> None:
    """The commands that make no results."""
    if getattr(args, "suite", None) is not None and args.suite not in params.suites:
        raise UserError(f"there is no suite {args.suite!r}: {unknown('suite', args.suite, params.suites)}")
    match args.command:
        case "show":
            print(json.dumps(params.resolve(args.run).model_dump(), indent=2))
        case "status":
            from spiking_diffusion.provenance.status import status

            _here(args)
            told = status(params, args.suite) if args.suite else [status(params, suite)[0] for suite in params.suites]
            print(*told, sep="\n")
        case "list":
            print(*_listing(params), sep="\n")
        case "grid":
            _here(args)
            print(grid_text(params, args.run, args.sets, args.seeds, args.new_suite), end="")
        case "inpaint":
            _on_device(STAGES["sample"], lambda: _inpaint(args, params))
        case "export":
            _export(args, params)
        case "demo":
            _here(args)
            _on_device(STAGES["sample"], lambda: _demo(args, params))
        case "bench":
            from spiking_diffusion.benchmark.measure import bench

            options = (args.batch, args.rounds, args.threads, args.device, args.precision, args.excitation)
            found = bench(params, args.recipe, args.what, *options)
            lines = "\n".join(f"{key}: {value}" for key, value in found.items())
            print(json.dumps(found, indent=2) if args.json else lines)
        case "score":
            from spiking_diffusion.devices import pick_device
            from spiking_diffusion.scoring import score

            device = pick_device(args.device or params.device)
            print(json.dumps(score(params, args.dataset, args.images, args.protocols.split(","), device), indent=2))
        case "recipes":
            print(recipes_page(params), end="")
        case "dvc":
            print(dvc_yaml(params), end="")
        case "page":
            from spiking_diffusion.reporting.pages import make_page

            print(make_page(params, args.suite, args.kind, Path(args.params)))
        case "report":
            _here(args)
            _report(params, args.suite)


def _listing(params: Params) -> list[str]:
    """Suites with their runs, runs with their dataset and recipe, and datasets."""
    suites = [f"  {suite}: {', '.join(runs)}" for suite, runs in params.suites.items()]
    runs = [f"  {name}: {run.dataset}, {run.recipe}" for name, run in params.all_runs.items()]
    datasets = [f"  {name}: {dataset.title}, {dataset.format}" for name, dataset in params.datasets.items()]
    return ["suites:", *suites, "runs:", *runs, "datasets:", *datasets]


def _here(args: argparse.Namespace) -> None:
    if args.params != "params.yaml" or args.root is not None:
        raise UserError(
            f"{args.command} reads params.yaml of this folder, as Snakemake does: leave out --params and --root"
        )


def _upkeep(args: argparse.Namespace, params: Params) -> int:
    """The commands that look after files; they have an exit code to give."""
    _here(args)
    match args.command:
        case "sync":
            from spiking_diffusion.provenance.sync import sync

            print(*sync(params), sep="\n")
            return 0
        case "verify":
            from spiking_diffusion.provenance.verify import verify

            checked, wrong = verify(params)
            print(*wrong, f"{checked} records checked, {len(wrong)} of them do not hold", sep="\n")
            return int(bool(wrong))
        case _:
            return _prune(params, args.yes)


def _prune(params: Params, yes: bool) -> int:
    """List orphans and remove them where that is agreed to; the exit code is 1 where they are kept."""
    from spiking_diffusion.provenance.prune import orphans, remove

    found = orphans(params)
    if not found:
        print("nothing to remove: params.yaml names every run, dataset and suite that has files here")
        return 0
    print(*found, sep="\n")
    what = f"{len(found)} files, {sum(file.lstat().st_size for file in found) / 1e6:.1f} MB"
    if not yes and not sys.stdin.isatty():
        print(f"{what}, are kept: --yes removes them")
        return 1
    if not yes and input(f"remove these {what}? [y/N] ").strip().lower() not in ("y", "yes"):
        print("kept")
        return 1
    remove(found)
    print(f"removed {what}")
    return 0


def _report(params: Params, suite: str) -> None:
    """Let Snakemake write the pages of the report, and then its report on all that a suite has.

    It opens on the suite's main numbers and samples.
    """
    kinds, out = pages_of(params, suite), "results/report.html"
    pages, rules = [str(paths.page_path(suite, kind)) for kind in kinds], [f"{kind}_page" for kind in kinds]
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1"]
    opening = paths.page_path(suite, "opening").with_suffix(".yaml")
    look = ["--report-metadata", str(opening), "--report-stylesheet", "workflow/report/report.css"]
    locks.wait_for_snakemake()

    def run(*options: str) -> None:
        done = subprocess.run([*snakemake, *options], capture_output=True, text=True)
        if done.returncode:
            tail = " ".join(done.stderr.split()[-40:])
            raise UserError(f"snakemake could not write the report ({tail}): run `snakemake --cores all {suite}` first")

    run("--quiet", "all", "--forcerun", *rules, "--allowed-rules", *rules, "--", *pages)
    # without any metadata, the report opens on the rules
    artifacts.write_json(opening, {f"Runs of {suite}": len(params.suites[suite])})
    run("--report", out, *look, "--", suite, *pages)
    print(out)


if __name__ == "__main__":
    sys.exit(main())
