"""``recipes:``, ``classifier:`` and ``inception:`` of ``params.yaml``: the settings of models and metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spiking_diffusion.config.base import BelowOne, Count, NotNegative, Positive, Section, Seed, TimeConstant, Unit
from spiking_diffusion.config.datasets import Weights


class Neuron(Section):
    """LIF neuron, Eq. 1-3 of the paper, and its surrogate gradient.

    ``tau`` is in time steps: of a membrane's charge 1 - 1/tau is left after one. ``decay_input`` divides the input by
    tau as well (Eq. 1). ``alpha`` is the steepness of ATan, or the height of a rectangle of area 1 around V_th.
    """

    tau: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    decay_input: bool
    v_threshold: Positive
    v_reset: Annotated[float, Field(allow_inf_nan=False)]
    surrogate: Literal["atan", "rectangular"]
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
    With ``tf32`` a GPU rounds weights to 10 bits in them; spikes have no bits to lose. On the CPU it is float32.
    ``ema`` is the decay by which weights are averaged over steps. The averages are what is validated and kept. With 0
    there is no average.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    schedule: Literal["constant", "cosine"]
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)]
    weight_decay: NotNegative
    precision: Literal["float32", "tf32", "bfloat16"]
    ema: BelowOne
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
    ``straight_through`` says where the decoder's gradient enters the encoder. ``k_gradient`` says how it reaches a
    learned k: ``straight-through`` along with the encoder's, which is not at all with ``straight_through: spikes``;
    ``reconstruction`` through the generator and z^E, for k alone. With ``embedding`` both are the same.

    A token stands for ``scale`` x ``scale`` pixels. Encoder and decoder have ``blocks`` blocks with membrane shortcuts
    on the grid of tokens.
    """

    T: Count
    channels: Annotated[list[Count], Field(min_length=2, max_length=2)]
    scale: Literal[2, 4]
    blocks: Annotated[int, Field(ge=0)]
    code_dim: Count
    readout: Literal["psp", "leaky-sum"]
    tau_syn: TimeConstant
    k: Literal["learned"] | Unit
    k_init: Annotated[float, Field(gt=0, lt=1)]
    k_range: Literal["free", "unit"]
    k_gradient: Literal["straight-through", "reconstruction"]
    codebook: Codebook
    coding: Literal["asg", "poisson"]
    beta: NotNegative
    straight_through: Literal["spikes", "embedding"]
    output_decay: Annotated[float, Field(gt=0, le=1)]
    train: Train


class SDID(Section):
    """Spiking diffusion image decoder, Sec. 2.3, and its training.

    ``input``: learned embeddings of token and step, or, as the released code has it, their bare numbers as two
    channels. ``architecture: residual`` has a block with a membrane shortcut for each of ``channels``, which are equal,
    learned currents of token and position in place of ``input``, and, in ``positions`` groups of channels, synapses
    over all positions (0: none). ``masks``: each token masked by chance as in Eq. 12, or a number of masks drawn first.
    ``loss``: the 1/t-weighted bound of Eq. 14, or the released code's weights 1 - t/T_d.
    """

    T: Count
    architecture: Literal["stack", "residual"]
    channels: Annotated[list[Count], Field(min_length=1)]
    positions: Annotated[int, Field(ge=0)]
    input: Literal["embedding", "raw"]
    embed_dim: Count
    masks: Literal["random", "counted"]
    loss: Literal["elbo", "reweighted"]
    train: Train

    @model_validator(mode="after")
    def _check(self) -> SDID:
        if self.architecture == "residual":
            if len(set(self.channels)) > 1:
                raise ValueError("architecture: residual has blocks of one width, so channels must be equal")
            if self.positions and self.channels[0] % self.positions:
                raise ValueError("positions must divide channels: its groups are of equal size")
        elif self.positions:
            raise ValueError("positions needs architecture: residual")
        return self


class Condition(Section):
    """What an image is drawn under, a decision for all of its tokens.

    ``by``: nothing, the class (``label``), or a global ``code`` of the model's own: the nearest of ``codes`` centres
    of the encoder's features. While SDID trains, the condition is left out for a share ``dropped`` of the images, as
    guidance needs it.
    """

    by: Literal["none", "label", "code"]
    codes: Annotated[int, Field(ge=2, le=65535)]
    dropped: BelowOne


class ScheduledSampling(Section):
    """From ``from_step`` on, the prior sees its own guess with a probability rising from ``start`` to ``end``.

    ``guess: pick`` takes a candidate at random and decides for each sample; ``majority`` takes that of the candidates
    and decides for the whole batch.
    """

    start: Unit
    end: Unit
    from_step: Annotated[int, Field(ge=0)]
    guess: Literal["pick", "majority"]


class FSVAE(Section):
    """FSVAE (Kamata et al. 2022).

    ``architecture: shared`` has the encoder and decoder of VQ-SVAE (two ``channels``, and ``code_dim``). ``original``
    is the published network: a stage of stride 2 for each of ``channels``, images resized to a multiple of 2^stages
    and in [-1, 1], and tdBN with alpha 2 in prior and posterior. It has no ``code_dim``. ``latent_norm: none`` has
    biases in place of batch normalisation in the four parts around the latent train: into it, posterior, prior,
    out of it.
    """

    T: Count
    architecture: Literal["shared", "original"]
    channels: Annotated[list[Count], Field(min_length=1)]
    code_dim: Count
    latent_dim: Count
    latent_norm: Literal["batch", "none"]
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


Sampler = Literal["ancestral", "cosine", "confidence", "margin", "remask"]
"""In which order tokens are revealed; ``diffusion/sampler.py`` has a function of each name."""


class Sample(Section):
    """How images are drawn. FSVAE reads ``n``, ``batch_size`` and ``threads`` alone.

    ``sampler`` is the order in which tokens are revealed (``diffusion/sampler.py``), ``steps`` the number of steps this
    takes, at most T_d. ``temperature`` divides the logits of SDID. ``guidance`` is how many times the difference that
    the condition makes is added to them. ``tuned`` is what the stage ``tune`` chose.
    """

    n: Annotated[int, Field(ge=2)]
    batch_size: Count
    sampler: Literal["tuned"] | Sampler
    steps: Literal["all"] | Count
    temperature: Literal["tuned"] | Positive
    guidance: Literal["tuned"] | NotNegative
    threads: Count


class Tune(Section):
    """What the stage ``tune`` tries on ``n`` images each: every temperature with every guidance, as far as they are to
    be tuned, for every sampler. At the best of these, one for each sampler, it tries every number of steps.

    Numbers of steps above the number of tokens mean all of them.
    """

    n: Annotated[int, Field(ge=2)]
    samplers: Annotated[list[Sampler], Field(min_length=1)]
    temperatures: Annotated[list[Positive], Field(min_length=1)]
    guidances: Annotated[list[NotNegative], Field(min_length=1)]
    steps: list[Count]


Protocol = Literal["standard", "clean32", "train50k", "released", "classifier"]
"""What a FID can be measured by; ``metrics/protocols.py`` says what each means."""
WITHOUT_INCEPTION: set[Protocol] = {"classifier"}
"""Those that need no ImageNet network."""


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
    condition: Condition
    sdid: SDID
    fsvae: FSVAE
    sample: Sample
    tune: Tune
    evaluate: Evaluate
    energy: Energy

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.condition.by != "none" and self.sdid.architecture != "residual":
            raise ValueError("condition.by needs sdid.architecture: residual")
        return self


class Classifier(Section):
    """The CNNs that judge the images of a dataset: as many as ``networks``, whose features the ``classifier`` protocol
    compares, and one that reads the images.

    Each sees the training images ``epochs`` times, or ``least_steps`` batches of a small dataset.
    """

    seed: Seed
    networks: Annotated[int, Field(ge=2)]
    channels: Annotated[list[Count], Field(min_length=1, max_length=3)]
    features: Count
    epochs: Count
    least_steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    weight_decay: NotNegative
    threads: Count


class Inception(Section):
    """The two ImageNet networks that protocols ask for: ``fid``, TensorFlow's of 2015 as torch-fidelity has it, and
    ``imagenet``, torchvision's, which the released code took in its place."""

    fid: Weights
    imagenet: Weights
