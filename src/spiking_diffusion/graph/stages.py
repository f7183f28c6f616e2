"""Every stage of the pipeline, declared once.

The command line, the projection for DVC, the settings file beside each output, ``sync``, ``verify``, ``prune`` and the
tests take a stage's inputs, outputs, settings and code from here. Snakemake's rules state the graph a second time, by
hand, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from spiking_diffusion import paths
from spiking_diffusion.config import FAMILIES, Params, RunSettings
from spiking_diffusion.graph import suites
from spiking_diffusion.graph.code import code_of, digest

FLAGS = {"datasets": "dataset", "suites": "suite"} | {family.section: "run" for family in FAMILIES.values()}
"""What the command line calls the name that a stage works on."""


@dataclass(frozen=True)
class Item:
    """What a stage works on: a dataset, run or suite of ``params``.

    ``key``, ``dataset`` and ``tokenizer`` are its name, its dataset's, and that of the run whose VQ-SVAE it takes, or
    DVC's placeholders for them; ``name`` is always its name.
    """

    params: Params
    name: str
    key: str
    dataset: str
    tokenizer: str = ""

    @property
    def run(self) -> RunSettings:
        """The complete setting of a run."""
        return self.params.resolve(self.name)

    @property
    def rows(self) -> list[suites.Row]:
        """The rows of a suite."""
        return suites.rows_of(self.params, self.name)

    def weights(self, *networks: str) -> list[Path]:
        """Weights of a run's networks."""
        return [paths.model_path(self.key, network) for network in networks]

    @property
    def tuning(self) -> list[Path]:
        """The file with a run's temperature, if the stage ``tune`` chooses it."""
        return [paths.tuning_path(self.key)] if self.run.tuned else []


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    It makes ``outputs`` from ``inputs`` for every name in the section ``over`` of params.yaml, or for ``only`` some.
    The settings file is beside the first output. ``run`` in ``module`` does the work; ``draws`` is a module that
    it imports by name. ``command`` and ``options`` are its command line with the text ``help``. ``reads`` are sections
    of the run's recipe, or keys of READ; ``threads`` is the key that has the number of threads.

    A stage that computes with torch, possibly on a GPU, has ``gpu``. DVC shows the first output as ``metrics``, and
    ``curve`` of the second, a training's history, by epoch.
    """

    over: str
    module: str
    command: str
    help: str
    inputs: Callable[[Item], Sequence[Path]]
    outputs: Callable[[str], Sequence[Path]]
    reads: tuple[str, ...] = ()
    threads: str = ""
    only: Callable[[Params], Collection[str]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    gpu: bool = True
    draws: str = ""
    metrics: bool = False
    curve: str = ""

    @property
    def family(self) -> str:
        """The module of the family whose runs it works on; empty for datasets and suites."""
        return next((family.module for family in FAMILIES.values() if family.section == self.over), "")

    @cached_property
    def code(self) -> tuple[Path, ...]:
        """The files that it runs, relative to the package."""
        return code_of((self.module, *filter(None, [self.draws])), self.family)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the code that it runs: a change makes its outputs stale."""
        return digest(self.code)

    def names(self, params: Params) -> list[str]:
        """What it is run for."""
        only = self.only(params) if self.only else getattr(params, self.over)
        return [name for name in getattr(params, self.over) if name in only]


READ: dict[str, Callable[[Item], Any]] = {
    "dataset": lambda item: item.params.dataset(item.name).model_dump(),
    "classes": lambda item: item.params.dataset(item.name).classes,
    "classifier": lambda item: item.params.classifier.model_dump(),
    "inception": lambda item: item.params.inception.model_dump(),
    "rows": lambda item: [asdict(row) for row in item.rows],
    "runs": lambda item: item.params.suites[item.name],
}
"""Settings that are not a section of a run's recipe."""

"""A VQ-SVAE that another run trains stands for its settings: it is an input, which changes with them."""

_SDID = ("seed", "neuron", "vqsvae", "condition", "sdid", "sample")
_FSVAE = ("seed", "neuron", "fsvae", "sample")


def _data(item: Item) -> list[Path]:
    return [paths.data_path(item.dataset)]


def _measured_by(item: Item) -> list[Path]:
    return [paths.data_path(item.dataset), paths.classifier_path(item.dataset)]


def _training(network: str) -> Callable[[str], list[Path]]:
    return lambda run: [
        paths.model_path(run, network),
        paths.history_path(paths.model_path(run, network)),
    ]


def _images_or_vqsvae(item: Item) -> list[Path]:
    return _training("vqsvae")(item.tokenizer) if item.tokenizer else _data(item)


def _with_csv(path: Callable[[str], Path]) -> Callable[[str], list[Path]]:
    return lambda name: [path(name), path(name).with_suffix(".csv")]


STAGES: dict[str, Stage] = {
    "fetch": Stage(
        over="datasets",
        module="stages.fetch",
        command="fetch",
        help="get and verify a dataset -> results/data/DATASET.npz, its card and contact sheet",
        inputs=lambda item: item.params.dataset(item.name).paths,
        outputs=lambda name: [paths.data_path(name), paths.card_path(name), paths.sheet_path(name)],
        reads=("dataset",),
        gpu=False,
    ),
    "classifier": Stage(
        over="datasets",
        module="stages.classifier",
        command="train classifier",
        help="train the classifier of a dataset, whose features FID and KID use",
        inputs=_data,
        outputs=lambda name: [paths.classifier_path(name)],
        reads=("classifier", "classes"),
        threads="classifier.threads",
    ),
    "ladder": Stage(
        over="datasets",
        module="stages.ladder",
        command="ladder",
        help="measure impostors, from halves of two images to noise -> results/ladders/DATASET.csv",
        inputs=_measured_by,
        outputs=lambda name: [paths.ladder_path(name), paths.ladder_path(name).with_suffix(".npz")],
        reads=("classifier",),
        threads="classifier.threads",
    ),
    "vqsvae": Stage(
        over="runs",
        module="stages.vqsvae",
        command="train vqsvae",
        help="train the VQ-SVAE of a run, or take that of its tokenizer: images <-> tokens",
        inputs=_images_or_vqsvae,
        outputs=_training("vqsvae"),
        reads=("seed", "neuron", "vqsvae"),
        threads="vqsvae.train.threads",
        curve="validation_mse",
    ),
    "tokens": Stage(
        over="runs",
        module="stages.tokens",
        command="encode",
        help="turn a run's images into tokens -> results/tokens/RUN.npz",
        inputs=lambda item: [*_data(item), *item.weights("vqsvae")],
        outputs=lambda name: [paths.tokens_path(name)],
        reads=("seed", "neuron", "vqsvae", "condition"),
        threads="vqsvae.train.threads",
    ),
    "sdid": Stage(
        over="runs",
        module="stages.sdid",
        command="train sdid",
        help="train the SDID of a run: the diffusion model of its tokens",
        inputs=lambda item: [paths.tokens_path(item.key), *item.weights("vqsvae")],
        outputs=_training("sdid"),
        reads=("seed", "neuron", "condition", "sdid"),
        threads="sdid.train.threads",
        curve="validation_bits_per_token",
    ),
    "fsvae": Stage(
        over="baselines",
        module="stages.fsvae",
        command="train fsvae",
        help="train the FSVAE baseline of a run",
        inputs=_data,
        outputs=_training("fsvae"),
        reads=("seed", "neuron", "fsvae"),
        threads="fsvae.train.threads",
        curve="validation_mse",
    ),
    "tune": Stage(
        over="runs",
        module="stages.tune",
        command="tune",
        help="try temperatures and numbers of steps against validation images -> results/tuning/RUN.json and .csv",
        inputs=lambda item: [*_measured_by(item), *item.weights("vqsvae", "sdid")],
        outputs=_with_csv(paths.tuning_path),
        reads=(*_SDID, "tune", "evaluate"),
        threads="sample.threads",
        only=suites.tuned,
    ),
    "sample": Stage(
        over="runs",
        module="stages.sample",
        command="sample",
        help="draw images from a trained run -> results/samples/RUN.npz, or a picture",
        inputs=lambda item: [*item.weights("vqsvae", "sdid"), *item.tuning],
        outputs=lambda name: [paths.samples_path(name)],
        reads=_SDID,
        threads="sample.threads",
    ),
    "inspect": Stage(
        over="runs",
        module="stages.inspect",
        command="inspect",
        help="keep what goes on inside a trained run, for figures -> results/traces/RUN.npz",
        inputs=lambda item: [
            *_data(item),
            paths.tokens_path(item.key),
            *item.weights("vqsvae", "sdid"),
            paths.samples_path(item.key),
        ],
        outputs=lambda name: [paths.traces_path(name)],
        reads=_SDID,
        threads="sample.threads",
        only=suites.shown,
    ),
    "energy": Stage(
        over="runs",
        module="stages.energy",
        command="energy",
        help="count the operations that an image takes, in millijoules -> results/energy/RUN.json and .csv",
        inputs=lambda item: [*_data(item), paths.samples_path(item.key), *item.weights("vqsvae", "sdid")],
        outputs=_with_csv(paths.energy_path),
        reads=(*_SDID, "energy"),
        threads="sample.threads",
        only=suites.with_energy,
    ),
    "evaluate": Stage(
        over="runs",
        module="stages.evaluate",
        command="evaluate",
        help="measure a run's reconstructions and samples -> results/metrics/RUN.json",
        inputs=lambda item: [
            *_measured_by(item),
            paths.samples_path(item.key),
            *item.weights("vqsvae", "sdid"),
            paths.tokens_path(item.key),
        ],
        outputs=lambda name: [paths.metrics_path(name), paths.notes_path(name), paths.reconstructions_path(name)],
        reads=(*_SDID, "evaluate", "inception"),
        threads="evaluate.threads",
        metrics=True,
    ),
}

STAGES |= {
    # the baseline's, without tokens and without a temperature to choose
    "fsvae_sample": replace(
        STAGES["sample"], over="baselines", inputs=lambda item: item.weights("fsvae"), reads=_FSVAE
    ),
    "fsvae_energy": replace(
        STAGES["energy"],
        over="baselines",
        inputs=lambda item: [*_data(item), *item.weights("fsvae")],
        reads=(*_FSVAE, "energy"),
    ),
    "fsvae_evaluate": replace(
        STAGES["evaluate"],
        over="baselines",
        inputs=lambda item: [*_measured_by(item), paths.samples_path(item.key), *item.weights("fsvae")],
        reads=(*_FSVAE, "evaluate", "inception"),
    ),
    "table": Stage(
        over="suites",
        module="stages.table",
        command="table",
        help="put the metrics of a suite side by side -> results/tables/SUITE.csv",
        inputs=lambda item: suites.metrics(item.params.suites[item.name]),
        outputs=lambda name: [paths.table_path(name).with_suffix(suffix) for suffix in (".csv", ".md", ".tex")],
        reads=("rows",),
        gpu=False,
    ),
    "energy_table": Stage(
        over="suites",
        module="stages.energy_table",
        command="table",
        help="put the energies of a suite side by side -> results/tables/SUITE-energy.csv",
        inputs=lambda item: [paths.energy_path(run) for run in item.params.suites[item.name]],
        outputs=lambda name: [paths.energy_table_path(name)],
        reads=("runs",),
        only=lambda params: [suite for suite in params.suites if suites.has_energy(params, suite)],
        options={"energy": True},
        gpu=False,
    ),
}


def _figure(kind: str) -> Stage:
    return Stage(
        over="suites",
        module="stages.figure",
        command="figure",
        help="draw a figure of a suite -> results/figures/SUITE-KIND.png, .svg and .pdf",
        inputs=lambda item: suites.figure_inputs(item.params, item.name, kind),
        outputs=lambda name: suites.figure_paths(name, kind),
        reads=("rows",),
        only=lambda params: [suite for suite in params.suites if suites.figure_inputs(params, suite, kind)],
        options={"kind": kind},
        gpu=False,
        draws=f"reporting.figures.{suites.FIGURES[kind].module}",
    )


STAGES |= {f"{kind}_figure": _figure(kind) for kind in suites.FIGURES}


def wants_gpu(params: Params) -> bool:
    """Whether jobs compute on a GPU, told without importing torch."""
    return params.device == "cuda" or (params.device == "auto" and Path("/dev/nvidiactl").exists())
