"""Every knob of the project: the classes behind ``params.yaml``.

``load_params("params.yaml")`` reads and checks the whole file, every run included, before anything runs.
``Params.resolve(run)`` merges a run's own lines over its recipe and returns the complete setting.

The classes are strict and frozen and refuse unknown keys: there is no hidden default, a key that is
missing from the file is an error. ``spiking-diffusion schema`` prints the JSON schema made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from spiking_diffusion.errors import UserError, sentence, unknown
from spiking_diffusion.yamlfile import read_yaml

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TimeConstant = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- datasets -------------------------------------------------------------------------------------------


class RemoteFile(Section):
    """One file of a dataset: its name, where it can be had, and what its bytes must hash to."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    urls: list[Annotated[str, StringConstraints(pattern=r"^https?://")]]
    sha256: Sha256


class LocalFile(Section):
    """One file of a dataset, or for the format ``folder`` a folder, that is on this machine already.

    ``path`` is relative to the project's folder, or absolute. Its hash is noted, not checked: it is the user's own.
    """

    path: Annotated[str, StringConstraints(pattern=r"^[^\s${}][^\n\r${}]*$")]


class PinnedFile(Section):
    """A file that is on this machine already and must hash to ``sha256``; ``path`` as in ``LocalFile``."""

    path: Annotated[str, StringConstraints(pattern=r"^[^\s${}][^\n\r${}]*$")]
    sha256: Sha256


def _kind_of_file(value: Any) -> str:
    local = "path" in value if isinstance(value, Mapping) else isinstance(value, (LocalFile, PinnedFile))
    return "file on disk" if local else "file to download"


File = Annotated[
    Annotated[RemoteFile, Tag("file to download")] | Annotated[LocalFile, Tag("file on disk")],
    Discriminator(_kind_of_file),
]

Weights = Annotated[
    Annotated[RemoteFile, Tag("file to download")] | Annotated[PinnedFile, Tag("file on disk")],
    Discriminator(_kind_of_file),
]

FORMATS: dict[str, set[str]] = {
    "digits": set(),
    "idx": {"train_images", "train_labels", "test_images", "test_labels"},
    "emnist-zip": {"archive"},
    "cifar-bin": {"archive"},
    "cifar-python": {"archive"},
    "npz": {"data"},
    "folder": {"data"},
}
"""The files that each format consists of."""


class Split(Section):
    """How many images are set aside by ``seed``: ``validation`` out of the training images, and
    ``test`` where the dataset brings no test set of its own (0 otherwise)."""

    validation: Count
    test: Annotated[int, Field(ge=0)]
    seed: Seed


class Dataset(Section):
    """Where images come from. ``shape`` is (channels, height, width); pixels are uint8.

    ``resize`` says what becomes of images of another size in a ``folder``: they are refused (``none``), scaled and cut
    to the middle (``crop``) or distorted (``stretch``). Images without labels are one class.
    """

    title: str
    format: Literal["digits", "idx", "emnist-zip", "cifar-bin", "cifar-python", "npz", "folder"]
    shape: Annotated[list[Count], Field(min_length=3, max_length=3)]
    resize: Literal["none", "crop", "stretch"]
    classes: Annotated[int, Field(ge=1, le=65536)]
    split: Split
    licence: str
    citation: str
    files: dict[str, File]

    @model_validator(mode="after")
    def _check(self) -> Dataset:
        if any(side % 4 for side in self.shape[1:]):
            raise ValueError("height and width must be divisible by 4: the encoder halves both twice")
        if min(self.shape[1:]) < 8:
            raise ValueError(f"shape is {self.shape}: height and width are at least 8, or SSIM's window does not fit")
        if self.shape[0] not in (1, 3):
            raise ValueError(f"shape is {self.shape}: the first number is 1 for grey images or 3 for colour")
        if self.resize != "none" and self.format != "folder":
            raise ValueError(f"resize is {self.resize!r}: {self.format} takes images as they are, write none")
        if set(self.files) != FORMATS[self.format]:
            raise ValueError(
                f"format {self.format} needs files {sorted(FORMATS[self.format])}, found {sorted(self.files)}"
            )
        return self

    @property
    def paths(self) -> list[Path]:
        """Those of its files that are on this machine."""
        return [Path(file.path) for file in self.files.values() if isinstance(file, LocalFile)]


# --- recipes --------------------------------------------------------------------------------------------


class Neuron(Section):
    """LIF neuron, Eq. 1-3 of the paper, and its surrogate gradient. ``tau`` is in time steps."""

    tau: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    v_threshold: Positive
    v_reset: Annotated[float, Field(allow_inf_nan=False)]
    surrogate: Literal["atan"]
    alpha: Positive
    detach_reset: bool

    @model_validator(mode="after")
    def _check(self) -> Neuron:
        if self.v_reset >= self.v_threshold:
            raise ValueError("v_reset must be below v_threshold, or every step would be a spike")
        return self


class Train(Section):
    """AdamW. ``threads`` is fixed by the recipe because the order of a sum, and so its last bits, depends on it.

    ``precision`` is that of the synapses' multiplications; membranes, statistics and weights are always float32.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    schedule: Literal["constant", "cosine"]
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    precision: Literal["float32", "bfloat16"]
    threads: Count


class Codebook(Section):
    """K codes (Eq. 7-8). ``decay`` and ``restart_dead`` belong to ``update: ema``.

    ``init``: N(0, 1), uniform on [0, 1], or ``kmeans`` of the features of the first batch.
    """

    size: Annotated[int, Field(ge=2, le=65535)]
    init: Literal["normal", "uniform", "kmeans"]
    update: Literal["gradient", "ema"]
    decay: BelowOne
    restart_dead: bool

    @model_validator(mode="after")
    def _check(self) -> Codebook:
        if self.restart_dead and self.update != "ema":
            raise ValueError("restart_dead needs update: ema, which counts how often a code is used")
        return self


class VQSVAE(Section):
    """VQ-SVAE, Sec. 2.2. ``T`` is T_s, ``k`` the weight of Eq. 6: ``learned`` from ``k_init``, or held fixed.

    A learned k stays in (0, 1), where SFR and PSP share the weight, with ``k_range: unit``; ``free`` lets it go
    anywhere. ``readout`` is what stands beside SFR in Eq. 6: PSP, or the sum of ``output_decay^(T-1-t)`` spikes, which
    the released code uses. ``coding`` makes z^Q a spike train again: the adaptive spike generator, or Poisson coding.
    ``straight_through`` says where the decoder's gradient enters the encoder.
    """

    T: Count
    channels: Annotated[list[Count], Field(min_length=2, max_length=2)]
    code_dim: Count
    readout: Literal["psp", "leaky-sum"]
    tau_syn: TimeConstant
    k: Literal["learned"] | Unit
    k_init: Annotated[float, Field(gt=0, lt=1)]
    k_range: Literal["free", "unit"]
    codebook: Codebook
    coding: Literal["asg", "poisson"]
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    straight_through: Literal["spikes", "embedding"]
    output_decay: Annotated[float, Field(gt=0, le=1)]
    train: Train


class SDID(Section):
    """Spiking diffusion image decoder, Sec. 2.3, and its training.

    ``input``: learned embeddings of token and step, or, as the released code has it, their bare numbers as two
    channels. ``loss``: the 1/t-weighted bound of Eq. 14, or the released code's weights 1 - t/T_d.
    """

    T: Count
    channels: Annotated[list[Count], Field(min_length=1)]
    input: Literal["embedding", "raw"]
    embed_dim: Count
    loss: Literal["elbo", "reweighted"]
    train: Train


class ScheduledSampling(Section):
    """From ``from_step`` on, the prior sees its own guess with a probability rising from ``start`` to ``end``."""

    start: Unit
    end: Unit
    from_step: Annotated[int, Field(ge=0)]


class FSVAE(Section):
    """FSVAE (Kamata et al. 2022).

    ``architecture: shared`` has the encoder and decoder of VQ-SVAE (two ``channels``, and ``code_dim``); ``original``
    is the published one: a stage of stride 2 for each of ``channels``, without ``code_dim``.
    """

    T: Count
    architecture: Literal["shared", "original"]
    channels: Annotated[list[Count], Field(min_length=1)]
    code_dim: Count
    latent_dim: Count
    k: Count
    tau_syn: TimeConstant
    output_decay: Annotated[float, Field(gt=0, le=1)]
    scheduled_sampling: ScheduledSampling
    train: Train

    @model_validator(mode="after")
    def _check(self) -> FSVAE:
        if self.architecture == "shared" and len(self.channels) != 2:
            raise ValueError("architecture: shared has two channels, as VQ-SVAE")
        return self


class Sample(Section):
    """How images are drawn. FSVAE reads ``n``, ``batch_size`` and ``threads`` alone.

    ``temperature`` divides the logits of SDID; ``tuned`` is the one that the stage ``tune`` chose. ``steps``: in how
    many steps all tokens are revealed, at most T_d.
    """

    n: Annotated[int, Field(ge=2)]
    batch_size: Count
    sampler: Literal["ancestral"]
    steps: Literal["all"] | Count
    temperature: Literal["tuned"] | Positive
    threads: Count


class Tune(Section):
    """What the stage ``tune`` tries on ``n`` images each: every temperature, and at the best every number of steps.

    Numbers of steps above the number of tokens mean all of them.
    """

    n: Annotated[int, Field(ge=2)]
    temperatures: Annotated[list[Positive], Field(min_length=1)]
    steps: list[Count]


Protocol = Literal["standard", "clean32", "train50k", "released", "classifier"]
"""What a FID can be measured by; ``metrics/protocols.py`` says what each means."""


class Evaluate(Section):
    """Protocols and the KID's subsets, which shrink to the number of images where there are fewer."""

    protocols: Annotated[list[Protocol], Field(min_length=1)]
    batch_size: Count
    kid_subset_size: Annotated[int, Field(ge=2)]
    kid_subsets: Count
    threads: Count

    @model_validator(mode="after")
    def _check(self) -> Evaluate:
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols names one twice: {', '.join(self.protocols)}")
        return self


class Energy(Section):
    """On how many images, drawn and encoded, the stage ``energy`` counts."""

    n: Count


class Recipe(Section):
    """A complete setting of every model; a run picks one and may override any key."""

    seed: Seed
    neuron: Neuron
    vqsvae: VQSVAE
    sdid: SDID
    fsvae: FSVAE
    sample: Sample
    tune: Tune
    evaluate: Evaluate
    energy: Energy


class Classifier(Section):
    """The small CNN whose features the ``classifier`` protocol compares; one per dataset."""

    seed: Seed
    channels: Annotated[list[Count], Field(min_length=2, max_length=2)]
    features: Count
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    threads: Count


class Inception(Section):
    """The two ImageNet networks that protocols ask for: ``fid``, TensorFlow's of 2015 as torch-fidelity has it, and
    ``imagenet``, torchvision's, which the released code took in its place."""

    fid: Weights
    imagenet: Weights


# --- runs and suites ------------------------------------------------------------------------------------


class Run(BaseModel):
    """A named experiment: a dataset, a recipe, and overrides laid out like the recipe itself."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    dataset: Name
    recipe: Name


Model = Literal["spiking-diffusion", "fsvae"]


class RunSettings(Section):
    """A run with nothing left open."""

    name: Name
    model: Model
    dataset_name: Name
    dataset: Dataset
    recipe_name: Name
    recipe: Recipe

    @property
    def tuned(self) -> bool:
        """Whether the stage ``tune`` chooses its temperature."""
        return self.model == "spiking-diffusion" and self.recipe.sample.temperature == "tuned"


class Params(Section):
    """The whole of ``params.yaml``."""

    device: Literal["auto", "cpu", "cuda"]
    datasets: dict[Name, Dataset]
    classifier: Classifier
    inception: Inception
    recipes: dict[Name, Recipe]
    runs: dict[Name, Run]
    baselines: dict[Name, Run]
    suites: dict[Name, Annotated[list[Name], Field(min_length=1)]]

    @model_validator(mode="after")
    def _check(self) -> Params:
        both = set(self.runs) & set(self.baselines)
        if both:
            raise ValueError(f"{sorted(both)[0]!r} names a run and a baseline; their files would collide, rename one")
        for name in self.all_runs:
            self.resolve(name)
        for suite, names in self.suites.items():
            if suite.endswith("-energy"):
                raise UserError(f"suites.{suite}: a table of energies has that name, end it otherwise")
            for name in names:
                if name not in self.all_runs:
                    raise UserError(f"suites.{suite} lists {name!r}, {unknown('run', name, self.all_runs)}")
            for name in names:
                if names.count(name) > 1:
                    raise UserError(f"suites.{suite} lists {name!r} twice: name each run once")
        return self

    @property
    def all_runs(self) -> dict[str, Run]:
        """Runs and baselines by name."""
        return {**self.runs, **self.baselines}

    def section_of(self, name: str) -> Literal["runs", "baselines"]:
        """The section of ``params.yaml`` in which a run stands. Raises UserError for an unknown run."""
        if name in self.runs:
            return "runs"
        if name in self.baselines:
            return "baselines"
        raise UserError(f"there is no run {name!r}: {unknown('run', name, self.all_runs)}")

    def dataset(self, name: str) -> Dataset:
        """A dataset's entry. Raises UserError for an unknown name."""
        if name not in self.datasets:
            raise UserError(f"there is no dataset {name!r}: {unknown('dataset', name, self.datasets)}")
        return self.datasets[name]

    def resolve(self, name: str) -> RunSettings:
        """The complete setting of a run: its recipe with the run's own lines on top.

        Raises UserError for an unknown run, dataset or recipe and for an override that does not fit.
        """
        where = f"{self.section_of(name)}.{name}"
        run = self.all_runs[name]
        if run.dataset not in self.datasets:
            raise UserError(f"{where}.dataset is {run.dataset!r}, {unknown('dataset', run.dataset, self.datasets)}")
        if run.recipe not in self.recipes:
            raise UserError(f"{where}.recipe is {run.recipe!r}, {unknown('recipe', run.recipe, self.recipes)}")
        merged = _merge(self.recipes[run.recipe].model_dump(), run.model_extra or {})
        try:
            recipe = Recipe.model_validate(merged)
        except ValidationError as error:
            raise UserError(sentence(error, where)) from None
        dataset, steps = self.datasets[run.dataset], recipe.sample.steps
        tokens = dataset.shape[1] // 4 * (dataset.shape[2] // 4)
        if name in self.runs and steps != "all" and steps > tokens:
            raise UserError(
                f"{where}.sample.steps is {steps}, but an image of {run.dataset!r} has {tokens} tokens: "
                "write a number up to that, or all"
            )
        return RunSettings(
            name=name,
            model="spiking-diffusion" if name in self.runs else "fsvae",
            dataset_name=run.dataset,
            dataset=dataset,
            recipe_name=run.recipe,
            recipe=recipe,
        )


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        k: _merge(base[k], v) if isinstance(base.get(k), Mapping) and isinstance(v, Mapping) else v
        for k, v in over.items()
    }
    return {**base, **both}


# --- reading the file -----------------------------------------------------------------------------------


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check ``params.yaml``. Raises UserError with one sentence for whatever is wrong in it."""
    return check_params(read_yaml(path), str(path))


def check_params(raw: Any, where: str = "params.yaml") -> Params:
    """Check the already parsed content of ``params.yaml``."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error, '')}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
