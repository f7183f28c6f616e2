"""The parser of the command line, with the help that a newcomer reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from spiking_diffusion import __version__
from spiking_diffusion.config import FAMILIES, Sampler
from spiking_diffusion.graph.stages import FLAGS, STAGES
from spiking_diffusion.graph.suites import FIGURES, PAGES

INTERRUPTED = "A training that was interrupted continues where it was."
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
