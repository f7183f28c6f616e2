"""Where every file of the project is, relative to its folder."""

from __future__ import annotations

from pathlib import Path

DOWNLOADS = Path("work/downloads")
"""What was downloaded, a folder for each dataset."""


def data_path(dataset: str) -> Path:
    """Images, labels and split of a dataset."""
    return Path("results/data", f"{dataset}.npz")


def card_path(dataset: str) -> Path:
    """What is in a dataset and where it came from, as JSON."""
    return data_path(dataset).with_suffix(".card.json")


def sheet_path(dataset: str) -> Path:
    """Some images of every class in one picture."""
    return data_path(dataset).with_suffix(".png")


def classifier_path(dataset: str) -> Path:
    """The classifier whose features the ``classifier`` protocol compares."""
    return Path("results/classifiers", f"{dataset}.safetensors")


def ladder_path(dataset: str) -> Path:
    """What impostors of a dataset score; examples of them are beside it as .npz."""
    return Path("results/ladders", f"{dataset}.csv")


def models_path(run: str) -> Path:
    """The folder with the weights of a run."""
    return Path("results/models", run)


def model_path(run: str, model: str) -> Path:
    """Weights of ``vqsvae``, ``sdid`` or ``fsvae``."""
    return weights_path(models_path(run), model)


def weights_path(folder: Path, model: str) -> Path:
    """Weights of a network in a folder of weights."""
    return folder / f"{model}.safetensors"


def pretrained_path(name: str) -> Path:
    """The folder of weights that come along."""
    return Path("pretrained", name)


def tokens_path(run: str) -> Path:
    """Training and validation images as tokens."""
    return Path("results/tokens", f"{run}.npz")


def tuning_path(run: str) -> Path:
    """The chosen temperature. A CSV with the same name has every setting that was tried."""
    return Path("results/tuning", f"{run}.json")


def samples_path(run: str) -> Path:
    """Generated images."""
    return Path("results/samples", f"{run}.npz")


def sampling_path(run: str) -> Path:
    """How long drawing the images took: no output of a stage, for it is never the same twice."""
    return Path("work", run, "sampling.json")


def work_path(run: str, network: str) -> Path:
    """Checkpoints and TensorBoard logs of a training."""
    return Path("work", run, network)


def cost_path(work: Path) -> Path:
    """What the training in the folder ``work`` took: no output of a stage, like ``sampling_path``."""
    return work / "training.json"


def metrics_path(run: str) -> Path:
    """One flat JSON of numbers."""
    return Path("results/metrics", f"{run}.json")


def notes_path(run: str) -> Path:
    """What these numbers depend on, and why some are missing."""
    return metrics_path(run).with_suffix(".notes.json")


def reconstructions_path(run: str) -> Path:
    """The test images after encoder and decoder."""
    return Path("results/reconstructions", f"{run}.npz")


def traces_path(run: str) -> Path:
    """What goes on inside a trained run: codes as images, samples in the making, spikes."""
    return Path("results/traces", f"{run}.npz")


def energy_path(run: str) -> Path:
    """Operations and millijoules per drawn image; those of each layer lie beside it as CSV."""
    return Path("results/energy", f"{run}.json")


def settings_path(output: Path) -> Path:
    """The resolved settings that made ``output``, beside it."""
    return output.with_suffix(".settings.json")


def history_path(weights: Path) -> Path:
    """Losses by epoch, beside the weights they led to."""
    return weights.with_suffix(".history.csv")


def table_path(suite: str) -> Path:
    """The table of a suite. Markdown and LaTeX files with the same name have the same rows."""
    return Path("results/tables", f"{suite}.csv")


def energy_table_path(suite: str) -> Path:
    """What it takes to draw an image, in suites for which ``has_energy``."""
    return Path("results/tables", f"{suite}-energy.csv")


def figure_path(suite: str, kind: str) -> Path:
    """The PNG of a figure; SVG and PDF lie beside it, and of a trajectory a GIF."""
    return Path("results/figures", f"{suite}-{kind}.png")


def page_path(suite: str, kind: str) -> Path:
    """A page of the report; no artefact, as it tells of times and of this machine."""
    return Path("work/report", suite, f"{kind}.html")
