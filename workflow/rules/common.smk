# Priorities follow the longest chain, vqsvae > tokens > sdid, so that two cores are never both kept from it.
# Settings and file names, taken from the package so that they stand in one place.
# Every rule runs in the one environment of requirements.lock, so none names a conda environment or container.
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

from spiking_diffusion import environment, locks, paths
from spiking_diffusion.artifacts import files_of
from spiking_diffusion.config import load_params
from spiking_diffusion.errors import UserError
from spiking_diffusion.graph import suites
from spiking_diffusion.graph.jobs import Job, check_targets
from spiking_diffusion.graph.records import origin
from spiking_diffusion.graph.stages import wants_gpu
from spiking_diffusion.provenance.sync import refuse_strangers
from snakemake.settings.types import ExecMode


@contextmanager
def one_sentence():
    """What the user can fix ends Snakemake with one sentence."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


MODULE = not workflow.modifier.is_main_snakefile()
STORAGE = workflow.storage_settings.default_storage_provider is not None
# Where Snakemake expects our files: in the working directory, below a module's prefix, or among the local copies of a
# storage. Every job is told this one folder.
RESULTS = Path(workflow.modifier.modify_path("results"))
ROOT = RESULTS.parent
OPTIONS = shlex.join(
    [
        *(["--params", str(config["params"])] if MODULE and "params" in config else []),
        *(["--root", str(ROOT)] if ROOT != Path() else []),
    ]
)

with one_sentence():
    if config and not MODULE:
        raise UserError(
            f"--config {' '.join(config)}: settings come from params.yaml alone, which DVC reads too; "
            "change it there, or add a run with the key"
        )
    if foreign := config.keys() - {"params"}:
        raise UserError(
            f"the module's config has {', '.join(map(repr, sorted(foreign)))}: its only key is 'params', the path of a "
            "params.yaml"
        )
    if RESULTS.name != "results":
        raise UserError(
            f"the module's results are in {RESULTS}: use `prefix:`, which keeps the names of its folders"
        )
    params = load_params(config.get("params", "params.yaml"))
    # a job's own Snakemake and a stage of DVC take the files that are there; --touch is how `sync` takes note of them
    if (
        workflow.exec_mode == ExecMode.DEFAULT
        and not OPTIONS
        and "DVC_STAGE" not in os.environ
        and not {"--touch", "-t", "--unlock"} & set(sys.argv)
    ):
        refuse_strangers(params)

environment.activate()

# jobs ask for a GPU where there is one to share; profiles/default says how many there are
GPU = int(wants_gpu(params))


wildcard_constraints:
    dataset="|".join(params.datasets),
    suite="|".join(params.suites),


def key(stage):
    """What makes a stage's output stale: its settings and its code, as one line of JSON.

    With --touch nothing is made, so Snakemake is told what the files that are there were made with.
    """

    def of(wildcards):
        job = Job(params, stage, wildcards[0])
        return origin(job) if workflow.touch and not OPTIONS else job.key

    return of


def command(text):
    """The shell command of a rule. It is the same text in every folder, because Snakemake reruns what has another one."""
    options = " {params.where}" if OPTIONS else ""
    return f"spiking-diffusion {text}{options} > {{log}} 2>&1"


def where(wildcards, output):
    """Options that tell a command where its settings and files are.

    Snakemake does not record parameters that take ``output``, so a moved folder makes nothing stale.
    """
    return OPTIONS


def recipe(wildcards):
    """The resolved recipe of the run at hand."""
    return params.resolve(wildcards.run).recipe


def own_files(wildcards):
    """Files of the dataset at hand that params.yaml names by path; those in a folder each, so that none changes unseen.

    Relative paths start at ``ROOT``, and in a storage too, which cannot tell the files of a folder. Another workflow may
    have a rule that makes them.
    """
    own = params.dataset(wildcards.dataset).paths
    if STORAGE:
        return [local(str(path)) if path.is_absolute() else str(path) for path in own]
    try:
        here = [Path(os.path.normpath(ROOT / path)) for path in own]
        return [
            local(str(file))
            for path in here
            if MODULE or path.exists()
            for file in files_of(path)
        ]
    except (OSError, ValueError):  # the job itself says it better
        return []


def data_of(wildcards):
    """The dataset file of the run at hand."""
    return str(paths.data_path(params.resolve(wildcards.run).dataset_name))


def images_or_vqsvae_of(wildcards):
    """What a VQ-SVAE comes from: images, or the run at hand takes another run's."""
    tokenizer = params.resolve(wildcards.run).tokenizer
    if not tokenizer:
        return [data_of(wildcards)]
    weights = paths.model_path(tokenizer, "vqsvae")
    return [str(weights), str(paths.history_path(weights))]


def classifier_of(wildcards):
    """The classifier of the run's dataset."""
    return str(paths.classifier_path(params.resolve(wildcards.run).dataset_name))


def tuning_of(wildcards):
    """The temperature of the run at hand, where it is chosen by the stage `tune`."""
    tuned = params.resolve(wildcards.run).tuned
    return [str(paths.tuning_path(wildcards.run))] if tuned else []


def figure_inputs(kind):
    """The files that a figure of a suite is drawn from."""
    return lambda wildcards: [
        str(path) for path in suites.figure_inputs(params, wildcards.suite, kind)
    ]


def suite_outputs(suite):
    """Tables and figures of a suite."""
    energy = suites.has_energy(params, suite)
    return [
        str(paths.table_path(suite)),
        *([str(paths.energy_table_path(suite))] if energy else []),
        *(
            str(paths.figure_path(suite, kind))
            for kind in suites.figures_of(params, suite)
        ),
    ]
