"""A stage of one dataset, run or suite: its files, its settings, and the record that it leaves of both."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import WITH_TOKENIZER, WITHOUT_INCEPTION, Params, RunSettings
from spiking_diffusion.errors import UserError, unknown
from spiking_diffusion.graph import maker, suites
from spiking_diffusion.graph.stages import FLAGS, READ, STAGES, Item, Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A stage of one dataset, run or suite ``name``."""

    params: Params = field(repr=False, hash=False, compare=False)
    stage: str
    name: str

    @property
    def spec(self) -> Stage:
        """The stage's declaration."""
        return STAGES[self.stage]

    @cached_property
    def item(self) -> Item:
        """What it works on."""
        params, over = self.params, self.spec.over
        if FLAGS[over] != "run":
            return Item(params, self.name, self.name, self.name)
        run = params.resolve(self.name)
        return Item(params, self.name, self.name, run.dataset_name, run.tokenizer or "")

    @property
    def run(self) -> RunSettings:
        """The complete setting of its run."""
        return self.item.run

    @cached_property
    def inputs(self) -> tuple[Path, ...]:
        """The files that it reads; a dataset of one's own can be a folder."""
        return tuple(dict.fromkeys(self.spec.inputs(self.item)))

    @cached_property
    def outputs(self) -> tuple[Path, ...]:
        """The files that it makes, apart from the settings file."""
        return tuple(self.spec.outputs(self.name))

    @property
    def out(self) -> Path:
        """Its main output."""
        return self.outputs[0]

    @property
    def settings_file(self) -> Path:
        """What made its outputs, as JSON beside the first."""
        return paths.settings_path(self.out)

    @property
    def present(self) -> list[Path]:
        """Those of its files that exist, the settings last."""
        return [path for path in (*self.outputs, self.settings_file) if path.is_file()]

    @property
    def command(self) -> list[str]:
        """Its command line, without the program."""
        options = [f"--{key}" if value is True else str(value) for key, value in self.spec.options.items()]
        return [*self.spec.command.split(), *options, f"--{FLAGS[self.spec.over]}", self.name]

    @property
    def threads(self) -> int:
        """The number of CPU threads that its settings ask for; 1 where they do not say."""
        *sections, last = self.spec.threads.split(".")
        if not last:
            return 1
        found: Any = self.params if sections[0] == "classifier" else self.run.recipe
        for part in (*sections, last):
            found = getattr(found, part)
        return int(found)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Just what it reads from ``params.yaml``.

        A VQ-SVAE of another run is one of the inputs. These change when its settings do, so its name is enough here.
        """
        reads = list(self.spec.reads)
        if "inception" in reads and WITHOUT_INCEPTION.issuperset(self.run.recipe.evaluate.protocols):
            reads.remove("inception")
        recipe: dict[str, Any] = {}
        if FLAGS[self.spec.over] == "run":
            recipe = self.run.recipe.model_dump(include=set(reads))
            if self.run.tokenizer:
                recipe |= {key: {"tokenizer": self.run.tokenizer} for key in WITH_TOKENIZER if key in recipe}
        return {key: READ[key](self.item) if key in READ else recipe[key] for key in reads}

    @property
    def key(self) -> str:
        """What makes its outputs stale when it changes, apart from its inputs: one line of JSON."""
        return artifacts.canonical_json({"settings": self.settings, "code": self.spec.fingerprint})

    @property
    def stamp(self) -> str:
        """SHA-256 of ``key``, kept in files that later stages must be able to refuse."""
        return artifacts.sha256_of(self.key.encode())

    @cached_property
    def record(self) -> dict[str, Any]:
        """What its settings file says: stage, name, settings, code, and the hashes of its inputs."""
        log.info("%s %s: %s", self.stage, self.name, artifacts.canonical_json(self.settings))
        return {
            "stage": self.stage,
            "name": self.name,
            "settings": self.settings,
            "code": self.spec.fingerprint,
            "inputs": {path.as_posix(): artifacts.content_hash(path) for path in self.inputs},
        }

    def seal(self, notes: Mapping[str, Any] | None = None) -> None:
        """Write the settings file: the record, what else to note, and the hashes of all outputs.

        This is the last step of a job: if the record fits the files, all of them are complete.
        """
        outputs = {path.as_posix(): artifacts.sha256(path) for path in self.outputs}
        artifacts.write_json(self.settings_file, self.record | dict(notes or {}) | {"outputs": outputs})
        maker.note(self.settings_file)

    def is_made(self) -> bool:
        """Whether its outputs were made by this very stage, with these settings, from the files that are there now."""
        try:
            found = artifacts.read_json(self.settings_file)
            said = artifacts.canonical_json({"settings": found["settings"], "code": found["code"]})
            if (found["stage"], found["name"], said) != (self.stage, self.name, self.key):
                return False
            hashes = found["inputs"] | found["outputs"]
            return all(artifacts.content_hash(Path(path)) == digest for path, digest in hashes.items())
        except (UserError, OSError, LookupError, TypeError, ValueError):
            return False

    def check_stamp(self, path: Path, found: str) -> None:
        """Raises UserError if ``path``, which has the stamp ``found``, was made with other settings or code."""
        if found != self.stamp:
            raise UserError(
                f"{path} was made with other settings or other code than today's: "
                f"make it again with `snakemake --cores all {path}`"
            )


def job_of(params: Params, command: str, name: str, **options: Any) -> Job:
    """The job that a command with ``options`` does for a dataset, run or suite.

    Raises UserError for an unknown name and for a run of a family that has no such stage.
    """
    same = {key: stage for key, stage in STAGES.items() if stage.command == command and stage.options == options}
    flag = FLAGS[next(iter(same.values())).over]
    over = {"dataset": "datasets", "suite": "suites"}.get(flag) or params.family_of(name).section
    for key, stage in same.items():
        if stage.over == over:
            if name not in getattr(params, over):
                raise UserError(f"there is no {flag} {name!r}: {unknown(flag, name, getattr(params, over))}")
            job = Job(params, key, name)
            if over == "suites" and not job.inputs:
                has = ", ".join(suites.figures_of(params, name))
                raise UserError(f"suite {name!r} has no {key.replace('_', ' ')}: its runs allow the figures {has}")
            return job
    sections = " or ".join(f"{stage.over}:" for stage in same.values())
    raise UserError(
        f"{command} has nothing to do for {name!r}, a {params.family_of(name).name} run: "
        f"name one under {sections} in params.yaml"
    )


def check_targets(params: Params, arguments: Sequence[str], rules: Collection[str]) -> None:
    """Raises UserError for an argument of Snakemake that is almost a suite, or a result that no job makes.

    Snakemake itself would not name what is meant. ``rules`` are names of its rules.
    """
    for argument in arguments:
        if argument.startswith("results/") and not Path(argument).exists():
            made = {str(path) for job in jobs(params) for path in (*job.outputs, job.settings_file)}
            if argument not in made | {"results/report.html"}:
                near = difflib.get_close_matches(argument, made, n=1)
                hint = f"did you mean {near[0]}?" if near else "`spiking-diffusion list` has all names"
                raise UserError(f"no job makes {argument}: {hint}")
        elif argument not in rules:
            near = difflib.get_close_matches(argument, params.suites, n=1, cutoff=0.85)
            if near and not argument.startswith("-") and "/" not in argument:
                raise UserError(f"there is no suite {argument!r}: did you mean {near[0]!r}?")


def jobs(params: Params) -> list[Job]:
    """Every job of everything that ``params.yaml`` names."""
    return [Job(params, stage, name) for stage in STAGES for name in STAGES[stage].names(params)]
