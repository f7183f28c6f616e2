"""The whole of ``params.yaml``: runs and suites, and how a run's lines are merged over its recipe."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from spiking_diffusion.config.base import Name, Section
from spiking_diffusion.config.datasets import Dataset
from spiking_diffusion.config.families import FAMILIES, Family, Model
from spiking_diffusion.config.recipes import Classifier, Inception, Recipe
from spiking_diffusion.config.yamlfile import read_yaml
from spiking_diffusion.errors import UserError, sentence, unknown

WITH_TOKENIZER = ("neuron", "vqsvae")
"""Sections of a recipe that a run with a ``tokenizer`` takes from that run."""


class Run(BaseModel):
    """A named experiment: a dataset, a recipe, and overrides laid out like the recipe itself.

    ``tokenizer`` names another run. The run then uses the trained VQ-SVAE and the neuron of that run and trains no
    VQ-SVAE.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    dataset: Name
    recipe: Name
    tokenizer: Name | None = None


class RunSettings(Section):
    """A run with its complete settings."""

    name: Name
    model: Model
    dataset_name: Name
    dataset: Dataset
    recipe_name: Name
    recipe: Recipe
    tokenizer: Name | None = None

    @property
    def family(self) -> Family:
        """The family of its model."""
        return FAMILIES[self.model]

    @property
    def tuned(self) -> bool:
        """Whether the stage ``tune`` chooses its sampler, temperature or guidance."""
        sample = self.recipe.sample
        chosen = {sample.sampler, sample.temperature, sample.guidance if self.conditions else 0.0}
        return "tune" not in self.family.unused and "tuned" in chosen

    @property
    def token_shape(self) -> tuple[int, int]:
        """(h, w) of the tokens of an image."""
        _, height, width = self.dataset.shape
        return height // self.recipe.vqsvae.scale, width // self.recipe.vqsvae.scale

    @property
    def conditions(self) -> int:
        """The number of conditions under which images can be drawn, or 0 without conditions."""
        by = self.recipe.condition.by
        return {"none": 0, "label": self.dataset.classes, "code": self.recipe.condition.codes}[by]


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
    _resolved: dict[str, RunSettings] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Params:
        names = sorted(name for family in FAMILIES.values() for name in self.runs_of(family))
        if both := [one for one, other in itertools.pairwise(names) if one == other]:
            raise ValueError(f"{both[0]!r} names a run and a baseline; their files would collide: rename one")
        for name in self.all_runs:
            self.resolve(name)
        for suite, names in self.suites.items():
            if suite.endswith("-energy"):
                raise UserError(
                    f"suites.{suite}: an energy table has that name: give the suite a name with another ending"
                )
            for name in names:
                if name not in self.all_runs:
                    raise UserError(f"suites.{suite} lists {name!r}, {unknown('run', name, self.all_runs)}")
            for name in names:
                if names.count(name) > 1:
                    raise UserError(f"suites.{suite} lists {name!r} twice: name each run once")
        return self

    @cached_property
    def derived(self) -> dict[str, Any]:
        """A cache of derived values. They never change."""
        return {}

    @property
    def all_runs(self) -> dict[str, Run]:
        """The runs of every family by name."""
        return {name: run for family in FAMILIES.values() for name, run in self.runs_of(family).items()}

    def runs_of(self, family: Family) -> dict[str, Run]:
        """The runs in a family's section by name."""
        runs: dict[str, Run] = getattr(self, family.section)
        return runs

    def family_of(self, name: str) -> Family:
        """The family of a run. Raises UserError for an unknown run."""
        for family in FAMILIES.values():
            if name in self.runs_of(family):
                return family
        raise UserError(f"there is no run {name!r}: {unknown('run', name, self.all_runs)}")

    def dataset(self, name: str) -> Dataset:
        """A dataset's entry. Raises UserError for an unknown name."""
        if name not in self.datasets:
            raise UserError(f"there is no dataset {name!r}: {unknown('dataset', name, self.datasets)}")
        return self.datasets[name]

    def resolve(self, name: str) -> RunSettings:
        """The complete settings of a run: its recipe with the run's own keys merged over it.

        Raises UserError for an unknown run, dataset or recipe, and for an override that does not fit.
        """
        if name not in self._resolved:
            self._resolved[name] = self._resolve(name, self.family_of(name))
        return self._resolved[name]

    def _resolve(self, name: str, family: Family) -> RunSettings:
        where = f"{family.section}.{name}"
        run = self.runs_of(family)[name]
        if run.dataset not in self.datasets:
            raise UserError(f"{where}.dataset is {run.dataset!r}, {unknown('dataset', run.dataset, self.datasets)}")
        if run.recipe not in self.recipes:
            raise UserError(f"{where}.recipe is {run.recipe!r}, {unknown('recipe', run.recipe, self.recipes)}")
        merged = _merge(self.recipes[run.recipe].model_dump(), run.model_extra or {})
        if run.tokenizer:
            for section in WITH_TOKENIZER:
                if section in (run.model_extra or {}):
                    raise UserError(f"{where} has both tokenizer and {section}: change it in {run.tokenizer!r}")
                merged[section] = getattr(self._tokenizer(run, where).recipe, section).model_dump()
        try:
            recipe = Recipe.model_validate(merged)
        except ValidationError as error:
            raise UserError(sentence(error, where)) from None
        dataset, steps = self.datasets[run.dataset], recipe.sample.steps
        scale = recipe.vqsvae.scale
        tokens = dataset.shape[1] // scale * (dataset.shape[2] // scale)
        if "sdid" in family.networks and steps != "all" and steps > tokens:
            raise UserError(
                f"{where}.sample.steps is {steps}, but an image of {run.dataset!r} has {tokens} tokens: "
                "use a number up to that, or all"
            )
        return RunSettings(
            name=name,
            model=family.name,
            dataset_name=run.dataset,
            dataset=dataset,
            recipe_name=run.recipe,
            recipe=recipe,
            tokenizer=run.tokenizer,
        )

    def _tokenizer(self, run: Run, where: str) -> RunSettings:
        """The run that trains the VQ-SVAE of ``run``."""
        name = run.tokenizer or ""
        if name not in self.runs:
            raise UserError(f"{where}.tokenizer is {name!r}, {unknown('run', name, self.runs)}")
        if self.runs[name].tokenizer:
            raise UserError(f"{where}.tokenizer is {name!r}, which trains no VQ-SVAE: name the run that does")
        other = self.resolve(name)
        if other.dataset_name != run.dataset:
            raise UserError(
                f"{where}.tokenizer is {name!r}, which is trained on {other.dataset_name!r}, not {run.dataset!r}"
            )
        return other


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        k: _merge(base[k], v) if isinstance(base.get(k), Mapping) and isinstance(v, Mapping) else v
        for k, v in over.items()
    }
    return {**base, **both}


# --- reading the file -----------------------------------------------------------------------------------


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check ``params.yaml``. Raises UserError with one sentence for any error in it."""
    return check_params(read_yaml(path), str(path))


def check_params(raw: Any, where: str = "params.yaml") -> Params:
    """Check the already parsed content of ``params.yaml``."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {sentence(error, '')}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
