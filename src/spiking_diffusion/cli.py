"""The command line: one sub-command per stage of the pipeline.

Every command works on the project's folder: it reads ``params.yaml`` and writes below ``results/``.
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
from pathlib import Path
from typing import Any

from spiking_diffusion import __version__, artifacts, locks, pipeline
from spiking_diffusion.config import Params, RunSettings, load_params
from spiking_diffusion.errors import UserError, unknown
from spiking_diffusion.reporting.layout import (
    FIGURES,
    PAGES,
    energy_table_path,
    figure_path,
    page_path,
    pages_of,
    table_path,
)

# Modules that import torch are imported inside the commands: `--help` and bad input answer at once.


log = logging.getLogger(__name__)
BENCHES = ("vqsvae", "sdid", "fsvae", "sample")


def build_parser() -> argparse.ArgumentParser:
    """The parser, with the help that a newcomer reads."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--params", default="params.yaml", metavar="FILE", help="settings of everything (default: params.yaml)"
    )
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], help="where to compute (default: `device` in params.yaml)"
    )
    on_run = argparse.ArgumentParser(add_help=False)
    on_run.add_argument(
        "--run", required=True, metavar="RUN", help="a name under `runs:` or `baselines:` in params.yaml"
    )
    on_dataset = argparse.ArgumentParser(add_help=False)
    on_dataset.add_argument(
        "--dataset", required=True, metavar="DATASET", help="a name under `datasets:` in params.yaml"
    )
    on_suite = argparse.ArgumentParser(add_help=False)
    on_suite.add_argument("--suite", required=True, metavar="SUITE", help="a name under `suites:` in params.yaml")

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

    command("fetch", "get and verify a dataset -> results/data/DATASET.npz, its card and contact sheet", on_dataset)
    train = commands.add_parser(
        "train", help="train a model", description="Train a model; an interrupted training goes on where it was."
    )
    models = train.add_subparsers(dest="model", required=True, metavar="MODEL")
    command("vqsvae", "train the VQ-SVAE of a run: images <-> tokens", on_run, device, into=models)
    command("sdid", "train the SDID of a run: the diffusion model of its tokens", on_run, device, into=models)
    command("fsvae", "train the FSVAE baseline of a run", on_run, device, into=models)
    command(
        "classifier",
        "train the classifier of a dataset, whose features FID and KID use",
        on_dataset,
        device,
        into=models,
    )
    command("encode", "turn a run's images into tokens -> results/tokens/RUN.npz", on_run, device)
    command(
        "tune",
        "try temperatures and numbers of steps against validation images -> results/tuning/RUN.json and .csv",
        on_run,
        device,
    )
    sample = command(
        "sample", "draw images from a trained run -> results/samples/RUN.npz, or a picture", on_run, device
    )
    sample.add_argument(
        "-n", type=int, metavar="N", help="how many images (default: `sample.n` of the run; 64 with --out)"
    )
    sample.add_argument(
        "--out", type=Path, metavar="FILE.png", help="write a picture of the images here and nothing else"
    )
    command("inspect", "keep what goes on inside a trained run, for figures -> results/traces/RUN.npz", on_run, device)
    command("evaluate", "measure a run's reconstructions and samples -> results/metrics/RUN.json", on_run, device)
    command(
        "energy",
        "count the operations that an image takes, in millijoules -> results/energy/RUN.json and .csv",
        on_run,
        device,
    )
    table = command("table", "put the metrics of a suite side by side -> results/tables/SUITE.csv", on_suite)
    table.add_argument(
        "--energy", action="store_true", help="their energies instead -> results/tables/SUITE-energy.csv"
    )
    figure = command("figure", "draw a figure of a suite -> results/figures/SUITE-KIND.png, .svg and .pdf", on_suite)
    figure.add_argument("kind", choices=FIGURES, help="what to draw")
    page = command("page", "write a page of the report -> work/report/SUITE/KIND.html", on_suite)
    page.add_argument("kind", choices=PAGES, help="what it tells of")
    command("report", "collect tables, figures and settings of a finished suite -> results/report.html", on_suite)
    bench = command("bench", "time a training step, or sampling, beside the same network in plain SpikingJelly code")
    bench.add_argument("what", choices=BENCHES, help="what to time")
    bench.add_argument("--batch", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    bench.add_argument("--recipe", default="paper", help="whose sizes to take (default: paper)")
    bench.add_argument("--rounds", type=int, default=5, metavar="N", help="timed steps of either (default: 5)")
    bench.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    bench.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)")
    bench.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of our synapses (default: float32)"
    )
    bench.add_argument(
        "--excitation",
        type=float,
        default=0.0,
        metavar="X",
        help="added to each normalisation's bias: neurons fire more often (default: 0)",
    )
    bench.add_argument("--json", action="store_true", help="print JSON instead of lines")
    command("sync", "after dvc pull or checkout: let Snakemake take note of the files that came from elsewhere")
    command(
        "verify",
        "hash everything again that the pipeline and DVC recorded, DVC's cache too; exit code 1 if any differs",
    )
    prune = command(
        "prune", "list the files of runs, datasets and suites that params.yaml no longer names, and remove them"
    )
    prune.add_argument("--yes", action="store_true", help="remove them without asking")
    command("show", "print the complete setting of a run as JSON", on_run)
    command("dvc", "print dvc.yaml, the same pipeline for DVC")
    command("schema", "print the JSON schema of params.yaml")
    command("recipes", "print all recipes side by side, in Markdown")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 where ``verify`` or ``prune`` found something, or 2 after one sentence
    on stderr about what the user can mend."""
    gc.set_threshold(100_000)  # torch brings half a million objects that stay: by default, 1000 searches for garbage
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
        print("interrupted: the same command goes on from the last checkpoint, where there is one", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: cannot go on ({error}): mend that and run the same command again", file=sys.stderr)
        return 2
    finally:
        threading.excepthook = before
    return 0


def _run(args: argparse.Namespace) -> int:
    if args.command == "schema":
        print(json.dumps(Params.model_json_schema(), indent=2, sort_keys=True))
        return 0
    params = load_params(args.params)
    if args.command in ("sync", "verify", "prune"):
        return _upkeep(args, params)
    if "suite" in args and args.suite not in params.suites:
        raise UserError(f"there is no suite {args.suite!r}: {unknown('suite', args.suite, params.suites)}")
    if "dataset" in args:
        params.dataset(args.dataset)
    run = params.resolve(args.run) if "run" in args else None
    job = _job(args, run)
    if job is None:
        _do(args, params, run)
        return 0
    stage, name, out, *others = job
    with locks.alone(out, *others) as waited:
        if waited and pipeline.is_made(params, stage, name, out):
            log.info("%s is there now, made with the same settings from the same files", out)
            print(out)
        else:
            _do(args, params, run)
    return 0


def _job(args: argparse.Namespace, run: RunSettings | None) -> tuple[Any, ...] | None:
    """Stage, name and outputs of a command that writes results; None for one that does not."""
    name = run.name if run else args.dataset if "dataset" in args else ""
    prefix = "fsvae_" if run and run.model == "fsvae" else ""
    match args.command:
        case "fetch":
            return "fetch", name, artifacts.data_path(name)
        case "train" if run is None:
            return "classifier", name, artifacts.classifier_path(name)
        case "train":
            return args.model, name, artifacts.model_path(name, args.model)
        case "encode":
            return "tokens", name, artifacts.tokens_path(name)
        case "tune":
            return "tune", name, artifacts.tuning_path(name)
        case "sample" if args.out is None:
            return f"{prefix}sample", name, artifacts.samples_path(name), artifacts.sampling_path(name)
        case "inspect":
            return "inspect", name, artifacts.traces_path(name)
        case "evaluate":
            return f"{prefix}evaluate", name, artifacts.metrics_path(name), artifacts.reconstructions_path(name)
        case "energy":
            return f"{prefix}energy", name, artifacts.energy_path(name)
        case "table" if args.energy:
            return "energy_table", args.suite, energy_table_path(args.suite)
        case "table":
            return "table", args.suite, table_path(args.suite)
        case "figure":
            return "figure", args.suite, figure_path(args.suite, args.kind)
    return None


def _do(args: argparse.Namespace, params: Params, run: RunSettings | None) -> None:
    match args.command:
        case "show":
            assert run
            print(json.dumps(run.model_dump(), indent=2))
        case "bench":
            from spiking_diffusion.benchmark.measure import bench

            options = (args.batch, args.rounds, args.threads, args.device, args.precision, args.excitation)
            found = bench(params, args.recipe, args.what, *options)
            lines = "\n".join(f"{key}: {value}" for key, value in found.items())
            print(json.dumps(found, indent=2) if args.json else lines)
        case "recipes":
            from spiking_diffusion.reporting.recipes import recipes_page

            print(recipes_page(params), end="")
        case "dvc":
            from spiking_diffusion.projection import dvc_yaml

            print(dvc_yaml(params), end="")
        case "fetch":
            from spiking_diffusion.data.fetch import fetch

            print(fetch(params, args.dataset))
        case "table" if args.energy:
            from spiking_diffusion.reporting.energy import make_energy_table

            print(make_energy_table(params, args.suite).read_text(), end="")
        case "table":
            from spiking_diffusion.reporting.tables import make_table

            print(make_table(params, args.suite).with_suffix(".md").read_text(), end="")
        case "figure":
            from spiking_diffusion.reporting.figures import make_figure

            print(make_figure(params, args.suite, args.kind))
        case "page":
            from spiking_diffusion.reporting.pages import make_page

            print(make_page(params, args.suite, args.kind))
        case "report":
            _here(args)
            _report(params, args.suite)
        case _:
            import torch

            try:
                _on_device(args, params, run)
            except torch.OutOfMemoryError as error:
                sizes = {
                    "train": f"{args.model}.train" if run else "classifier",
                    "encode": "vqsvae.train",
                    "tune": "sample",
                }
                raise UserError(
                    f"the GPU's memory is full ({str(error).splitlines()[0]}): lower "
                    f"{sizes.get(args.command, args.command)}.batch_size in params.yaml, or pass --device cpu"
                ) from error


def _on_device(args: argparse.Namespace, params: Params, run: RunSettings | None) -> None:
    """The commands that compute with torch."""
    from spiking_diffusion.training.devices import pick_device

    device = pick_device(args.device or params.device)
    if run is None:
        from spiking_diffusion.metrics.classifier import train_classifier

        print(train_classifier(params, args.dataset, device))
        return
    fsvae = args.command == "train" and args.model == "fsvae"
    if args.command in ("train", "encode", "tune", "inspect") and fsvae != (run.model == "fsvae"):
        raise UserError(
            f"{run.name!r} is a {run.model} run: "
            f"{'name a baseline' if fsvae else 'name a run under runs:'} in params.yaml for this command"
        )
    match args.command, getattr(args, "model", None):
        case "train", "vqsvae":
            from spiking_diffusion.training.vqsvae import train_vqsvae

            print(train_vqsvae(params, run, device))
        case "train", "sdid":
            from spiking_diffusion.training.sdid import train_sdid

            print(train_sdid(params, run, device))
        case "train", "fsvae":
            from spiking_diffusion.training.fsvae import train_fsvae

            print(train_fsvae(params, run, device))
        case "encode", _:
            from spiking_diffusion.training.tokens import encode_run

            print(encode_run(params, run, device))
        case "tune", _:
            from spiking_diffusion.training.tune import tune_run

            print(tune_run(params, run, device).read_text(), end="")
        case "sample", _:
            from spiking_diffusion.training.sample import sample_picture, sample_run

            if args.n is not None and not 1 <= args.n <= 10_000:
                raise UserError(f"-n is {args.n}: ask for 1 to 10000 images")
            if args.n is not None and args.out is None:
                raise UserError(
                    "-n without --out would make results/samples differ from params.yaml: add --out FILE.png, "
                    "or change sample.n of the run"
                )
            print(sample_picture(run, args.n or 64, args.out, device) if args.out else sample_run(params, run, device))
        case "inspect", _:
            from spiking_diffusion.training.inspect import inspect_run

            print(inspect_run(params, run, device))
        case "energy", _:
            from spiking_diffusion.metrics.energy import energy_run

            print(energy_run(params, run, device).read_text(), end="")
        case "evaluate", _:
            from spiking_diffusion.metrics.evaluate import evaluate_run

            print(evaluate_run(params, run, device).read_text(), end="")


def _here(args: argparse.Namespace) -> None:
    if args.params != "params.yaml":
        raise UserError(f"{args.command} reads params.yaml of this folder, as Snakemake does: leave out --params")


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
    """Let Snakemake write the pages of the report anew, and then its report on all that a suite has."""
    kinds, out = pages_of(params, suite), "results/report.html"
    pages, rules = [str(page_path(suite, kind)) for kind in kinds], [f"{kind}_page" for kind in kinds]
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1"]
    locks.wait_for_snakemake()
    for command in (
        [*snakemake, "--quiet", "all", "--forcerun", *rules, "--allowed-rules", *rules, "--", *pages],
        [*snakemake, "--report", out, "--", suite, *pages],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            tail = " ".join(done.stderr.split()[-40:])
            raise UserError(f"snakemake could not write the report ({tail}): run `snakemake --cores all {suite}` first")
    print(out)


if __name__ == "__main__":
    sys.exit(main())
