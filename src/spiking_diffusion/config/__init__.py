"""Every setting of the project: the classes behind ``params.yaml``.

``load_params("params.yaml")`` reads and checks the whole file, including every run, before anything runs.
``Params.resolve(run)`` merges a run's own lines over its recipe and returns the complete setting.

The classes are strict and frozen and refuse unknown keys. There is no hidden default, so a missing key is an error.
``spiking-diffusion schema`` prints the JSON schema made from them.
"""

# ruff: noqa: F401, I001 - the names that others take from here, several to a line
from spiking_diffusion.config.datasets import FORMATS, Dataset, File, LocalFile, PinnedFile, RemoteFile, Split, Weights
from spiking_diffusion.config.families import FAMILIES, Family, Model
from spiking_diffusion.config.params import WITH_TOKENIZER, Params, Run, RunSettings, check_params, load_params
from spiking_diffusion.config.recipes import FSVAE, SDID, VQSVAE, Classifier, Codebook, Energy, Evaluate, Inception
from spiking_diffusion.config.recipes import (
    WITHOUT_INCEPTION,
    Neuron,
    Protocol,
    Recipe,
    Sample,
    Sampler,
    ScheduledSampling,
    Train,
    Tune,
)
from spiking_diffusion.config.yamlfile import read_yaml
