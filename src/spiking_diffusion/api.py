"""Trained models for Python."""

from __future__ import annotations

from pathlib import Path

from spiking_diffusion import families, paths
from spiking_diffusion.artifacts import read_json
from spiking_diffusion.config import load_params
from spiking_diffusion.devices import pick_device
from spiking_diffusion.errors import UserError
from spiking_diffusion.families import CONFIG, load_pretrained
from spiking_diffusion.graph.jobs import Job


def load(run: str | Path, device: str = "auto") -> families.Model:
    """The trained model of a run.

    ``run`` is its name, in the project's folder, or from anywhere the path of its weights, ``.../results/models/NAME``.
    Weights that come along are found by their name as well, as long as no run of that name has been trained, and by
    their path, ``.../pretrained/NAME``. ``device`` is auto, cpu or cuda.

    >>> model = load("digits", device="cpu")
    >>> images = model.sample(4, seed=1)                # float (4, C, H, W) in [0, 1]
    >>> tokens = model.encode(images)                   # int64 (4, H/4, W/4)
    >>> model.decode(tokens).shape == images.shape
    True
    >>> model.config.recipe.vqsvae.codebook.size > int(tokens.max())
    True

    Raises UserError for an unknown run, for weights that are missing or damaged, and for weights that were trained with
    other settings than ``params.yaml`` has.
    """
    path = Path(run)
    named = path.parent == Path()
    trained = named and paths.models_path(path.name).is_dir()
    folder = paths.pretrained_path(path.name) if named and not trained else path
    if (folder / CONFIG).is_file():
        return load_pretrained(folder, pick_device(device))
    if not named and path.parts[-3:-1] != ("results", "models"):
        raise UserError(
            f"{run} is not the path of a run's weights: give a run's name, or a path .../results/models/NAME"
        )
    root = Path() if named else path.resolve().parents[2]
    params = load_params(root / "params.yaml")
    settings = params.resolve(path.name)
    for network in settings.family.networks:
        job = Job(params, network, settings.name)
        file = root / job.settings_file
        said = read_json(file) if file.is_file() else {"settings": job.settings}
        if not isinstance(said, dict) or said.get("settings") != job.settings:
            raise UserError(
                f"{root / job.out} was trained with other settings than params.yaml has for {settings.name!r}: "
                f"train it again, or undo the change"
            )
    return families.load(settings, pick_device(device), root / paths.models_path(settings.name))
