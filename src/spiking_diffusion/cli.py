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
from typing import TYPE_CHECKING, Any, get_args

from spiking_diffusion import __version__, artifacts, environment, locks, paths
from spiking_diffusion.config import FAMILIES, Params, Sampler, load_params
from spiking_diffusion.errors import UserError, refused, unknown
from spiking_diffusion.graph.dvc import dvc_yaml
from spiking_diffusion.graph.grid import grid_text
from spiking_diffusion.graph.jobs import job_of
from spiking_diffusion.graph.stages import FLAGS, STAGES, Stage
from spiking_diffusion.graph.suites import FIGURES, PAGES, pages_of
from spiking_diffusion.reporting.recipes import recipes_page
from spiking_diffusion.stages import make

# Modules that import torch are imported inside the commands: `--help` and bad input answer at once.
if TYPE_CHECKING:
    from spiking_diffusion.families import Model


log = logging.getLogger(__name__)
SHOWN = (".md", ".json", ".csv")
"""Main outputs that are printed when a command has made them. Of others the path is printed."""
INTERRUPTED = "A training that was interrupted continues where it was."
HOW = ("condition", "guidance", "sampler", "temperature", "steps", "seed")
"""How a picture is drawn, as far as options say it; ``condition`` is called --class there."""
BENCHES = ("vqsvae", "sdid", "fsvae", "sample")


def build_parser() -> argparse.ArgumentParser:
    """The parser, with the help that a newcomer reads."""
    common = _options("--params", default="params.yaml", metavar="FILE", help="settings (default: params.yaml)")
    common.add_argument("--root", type=Path, metavar="FOLDER", help="folder of results/ and work/ (default: .)")
    device = _options(
        "--device", choices=["auto", "cpu", "cuda"], help="where to compute (default: `device` in params.yaml)"
    )
    names = {
        "dataset": "a name under `datasets:` in params.yaml",
        "run": f"a name under {' or '.join(f'`{family.section}:`' for family in FAMILIES.values())} in params.yaml",
        "suite": "a name under `suites:` in params.yaml",
    }
    on = {name: _options(f"--{name}", required=True, metavar=name.upper(), help=text) for name, text in names.items()}

    drawn_from = argparse.ArgumentParser(add_help=False)
    source = drawn_from.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="RUN", help=names["run"])
    source.add_argument("--pretrained", metavar="NAME", help="weights that come along: a folder in pretrained/")

    parser = argparse.ArgumentParser(
        prog="spiking-diffusion",
        description="Train, sample and measure spiking generative models. Each command is one stage of the pipeline; "
        "`snakemake --cores 8 all` runs them all in order.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, text: str, *parents: argparse.ArgumentParser, into: argparse._SubParsersAction | None = None
    ) -> argparse.ArgumentParser:
        return (into or commands).add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common, *parents]
        )

    within: dict[str, argparse._SubParsersAction] = {}  # `train` has commands of its own
    made: dict[str, argparse.ArgumentParser] = {}
    for stage in STAGES.values():
        group, _, name = stage.command.rpartition(" ")
        if group and group not in within:
            text = f"{group} a model"
            inner = commands.add_parser(group, help=text, description=f"{text.capitalize()}. {INTERRUPTED}")
            within[group] = inner.add_subparsers(dest=group, required=True, metavar="MODEL")
        if stage.command not in made:
            named = drawn_from if stage.command == "sample" else on[FLAGS[stage.over]]
            if FLAGS[stage.over] == "run" and stage.command != "sample":
                sections = [f"`{other.over}:`" for other in STAGES.values() if other.command == stage.command]
                text = f"a name under {' or '.join(sections)} in params.yaml"
                named = _options("--run", required=True, metavar="RUN", help=text)
            parents = [named, *[device] * stage.gpu]
            made[stage.command] = command(name, stage.help, *parents, into=within.get(group))
            made[stage.command].set_defaults(stages=stage.command)
        for option, value in stage.options.items():
            if value is True:
                made[stage.command].add_argument(f"--{option}", action="store_true", help=stage.help)
    made["figure"].add_argument("kind", choices=FIGURES, help="what to draw")
    made["sample"].add_argument(
        "-n", type=int, metavar="N", help="how many images (default: `sample.n` of the run; 64 with --out)"
    )
    made["sample"].add_argument(
        "--out", type=Path, metavar="FILE.png", help="write a picture of the images here and nothing else"
    )
    _add_how(made["sample"].add_argument_group("only with --out"))
    complete = command(
        "inpaint",
        "complete a picture where a mask covers it -> a picture of both and of several completions",
        drawn_from,
        device,
    )
    complete.add_argument("--image", type=Path, required=True, metavar="FILE", help="the picture")
    complete.add_argument(
        "--mask", type=Path, required=True, metavar="FILE", help="as large as the picture, and white where to redraw it"
    )
    complete.add_argument("-n", type=int, default=8, metavar="N", help="how many completions (default: 8)")
    complete.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="where to write")
    _add_how(complete)
    export = command(
        "export",
        "copy the weights of an evaluated run, with a model card -> pretrained/RUN; or write NIR files of a model",
        drawn_from,
    )
    export.set_defaults(device="cpu")
    export.add_argument("--folder", type=Path, metavar="FOLDER", help="where to (default: pretrained/RUN)")
    export.add_argument("--half", action="store_true", help="round weights to float16, half the size")
    export.add_argument(
        "--nir", type=Path, metavar="DIR", help="write encoder.nir and sdid.nir here and nothing else (docs/nir.md)"
    )
    demo = command("demo", "serve a page to play with trained models, to this machine alone", device)
    demo.add_argument("--port", type=int, default=8123, metavar="PORT", help="where (default: 8123; 0: any free port)")
    page = command("page", "write a page of the report -> work/report/SUITE/KIND.html", on["suite"])
    page.add_argument("kind", choices=PAGES, help="what it tells of")
    command("report", "collect tables, figures and settings of a finished suite -> results/report.html", on["suite"])
    _add_bench(
        command("bench", "time a training step, or sampling, next to the same network in plain SpikingJelly code")
    )
    score = command(
        "score", "measure images that another program made, in the columns of our tables", on["dataset"], device
    )
    score.add_argument(
        "images", type=Path, metavar="IMAGES", help="an .npz with an array of images, or a folder of PNGs"
    )
    score.add_argument(
        "--protocols", default="classifier", metavar="LIST", help="protocols, with commas between (default: classifier)"
    )
    progress = command("status", "tell what is done, running and to come, of a suite or, in a line each, of all")
    progress.add_argument("--suite", metavar="SUITE", help="a name under `suites:` in params.yaml")
    command("list", "name the suites, runs and datasets of params.yaml")
    command("sync", "after dvc pull or checkout: let Snakemake take note of the files that came from elsewhere")
    command(
        "verify",
        "hash everything again that the pipeline and DVC recorded, DVC's cache too; exit code 1 if any differs",
    )
    prune = command(
        "prune", "list the files of runs, datasets and suites that params.yaml no longer names, and remove them"
    )
    prune.add_argument("--yes", action="store_true", help="remove them without asking")
    command("show", "print the complete setting of a run as JSON", on["run"])
    _add_grid(command("grid", "print the lines of params.yaml for an ablation of a run", on["run"]))
    command("dvc", "print dvc.yaml, the same pipeline for DVC")
    command("schema", "print the JSON schema of params.yaml")
    command("recipes", "print all recipes side by side, in Markdown")
    return parser


def _options(*names: str, **options: Any) -> argparse.ArgumentParser:
    """A parser with one option, for others to take it from."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(*names, **options)
    return parent


def _add_how(parser: argparse._ActionsContainer) -> None:
    """How a picture is drawn. What is not given is as the recipe says."""
    parser.add_argument(
        "--class",
        type=int,
        dest="condition",
        metavar="C",
        help="the class, of a model that was trained with classes; the global code of one that was trained with codes",
    )
    parser.add_argument("--guidance", type=float, metavar="W", help="how strongly the class is followed, 0 or more")
    parser.add_argument("--sampler", choices=get_args(Sampler), help="the order in which tokens are revealed")
    parser.add_argument("--temperature", type=float, metavar="T", help="divides the logits: below 1 for safer pictures")
    parser.add_argument("--steps", type=int, metavar="S", help="in how many steps all tokens are revealed")
    parser.add_argument("--seed", type=int, metavar="SEED", help="another seed, other pictures")


def _how(args: argparse.Namespace, model: Model) -> dict[str, Any]:
    """The options of ``_add_how`` that were given, for a model that has them."""
    from spiking_diffusion.families.options import checked_how

    how = {name: getattr(args, name) for name in HOW if getattr(args, name) is not None}
    return checked_how(model, how, _option, f": see `spiking-diffusion {args.command} --help`")


def _option(name: str) -> str:
    return "--class" if name == "condition" else f"--{name}"


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("what", choices=BENCHES, help="what to time")
    bench.add_argument("--batch", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    bench.add_argument("--recipe", default="paper", help="the recipe with the sizes (default: paper)")
    bench.add_argument("--rounds", type=int, default=5, metavar="N", help="timed steps of either (default: 5)")
    bench.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)")
    bench.add_argument(
        "--precision",
        choices=("float32", "tf32", "bfloat16"),
        default="float32",
        help="of our synapses (default: float32)",
    )
    bench.add_argument(
        "--excitation",
        type=float,
        default=0.0,
        metavar="X",
        help="added to each normalisation's bias: neurons fire more often (default: 0)",
    )
    bench.add_argument("--json", action="store_true", help="print JSON instead of lines")


def _add_grid(grid: argparse.ArgumentParser) -> None:
    grid.add_argument(
        "--set",
        dest="sets",
        action="append",
        required=True,
        metavar="KEY=VALUE,VALUE",
        help="a key of the recipe and its values; repeat it for the product of several keys",
    )
    grid.add_argument("--seeds", metavar="SEED,SEED", help="the seeds of every variant (default: the run's own)")
    grid.add_argument("--suite", dest="new_suite", required=True, metavar="NAME", help="the name of the new suite")


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

    with serve(args.port, args.device or params.device, len(os.sched_getaffinity(0))) as server:
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
    for command in (
        [*snakemake, "--quiet", "all", "--forcerun", *rules, "--allowed-rules", *rules, "--", *pages],
        [*snakemake, "--report", out, *look, "--", suite, *pages],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            tail = " ".join(done.stderr.split()[-40:])
            raise UserError(f"snakemake could not write the report ({tail}): run `snakemake --cores all {suite}` first")
        # without any metadata, the report opens on the rules
        artifacts.write_json(opening, {f"Runs of {suite}": len(params.suites[suite])})
    print(out)


if __name__ == "__main__":
    sys.exit(main())
