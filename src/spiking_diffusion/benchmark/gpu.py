"""``python -m spiking_diffusion.benchmark.gpu``: spend some minutes of a GPU on runs, and keep the results.

For a machine that is available for minutes and has none of the workflow tools. The runs share the GPU. Each goes
through its stages, one after the other. After each stage its results are packed, including checkpoints, so another
machine can continue.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

from spiking_diffusion import artifacts
from spiking_diffusion.config import Params, load_params
from spiking_diffusion.graph import maker
from spiking_diffusion.graph.jobs import Job

ORDER = ("vqsvae", "fsvae", "tokens", "sdid", "tune", "sample", "fsvae_sample", "evaluate", "fsvae_evaluate", "energy")
"""Stages of a run in the order of their dependencies."""


def jobs_of(params: Params, name: str, made: set[Path] | None = None) -> list[Job]:
    """The stages of a run, in order, with data and judges that exist or are among the files that will be ``made``.

    Adds their outputs to ``made``.
    """
    made = set() if made is None else made
    jobs = []
    for stage in ORDER:
        job = Job(params, stage, name)
        if name in job.spec.names(params) and all(path in made or path.exists() for path in job.inputs):
            jobs.append(job)
            made.update(job.outputs)
    return jobs


class Session:
    """Runs in parallel until ``minutes`` are over."""

    def __init__(self, params: Params, options: list[str], names: list[str], minutes: float, out: Path) -> None:
        self.params, self.options, self.out = params, options, out
        self.end = time.monotonic() + 60 * minutes
        self.rows: list[dict[str, Any]] = []
        made: set[Path] = set()
        tokenizers_first = sorted(names, key=lambda name: bool(params.resolve(name).tokenizer))
        self.jobs = {name: jobs_of(params, name, made) for name in tokenizers_first}
        self.over = {job: threading.Event() for jobs in self.jobs.values() for job in jobs}
        self.maker = {path: job for job in self.over for path in job.outputs}

    def take(self, name: str) -> None:
        """Take a run through its stages until the time is over."""
        for job in self.jobs[name]:
            self._wait(job)
            start = time.monotonic()
            code = 0 if job.is_made() else self._make(job)
            self.rows.append({"run": name, "stage": job.stage, "seconds": time.monotonic() - start, "code": code})
            print(json.dumps(self.rows[-1]), flush=True)
            self.over[job].set()
            self._pack(name)
            if code:
                break
        for job in self.jobs[name]:
            self.over[job].set()

    def _wait(self, job: Job) -> None:
        """Wait for inputs that other runs make, such as the VQ-SVAE of the job's tokenizer."""
        for path in job.inputs:
            if path in self.maker:
                self.over[self.maker[path]].wait(max(1.0, self.end - time.monotonic()))

    def _make(self, job: Job) -> int:
        command = [sys.executable, "-m", "spiking_diffusion", *job.command, *self.options]
        path = Path("work", job.name, "gpu.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                return process.wait(max(1.0, self.end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                return process.wait()

    def _pack(self, name: str) -> None:
        """Results of a run, without those that take only seconds, and checkpoints of unfinished trainings."""
        made = {job.stage for job in self.jobs[name] if job.is_made()}
        left_out = {"tokens", "reconstructions", "traces"} | made
        found: dict[str, list[Path]] = {"": [], ".samples": []}
        for path in sorted([*Path("results").rglob("*"), *Path("work").rglob("*")]):
            own = name in path.parts or path.name.split(".")[0] == name
            useless = path.suffix in (".npz", ".pt") and left_out.intersection(path.parts)
            if own and path.is_file() and not useless and "tensorboard" not in path.parts:
                found[".samples" if "samples" in path.parts else ""].append(path)
        for part, files in found.items():
            with tarfile.open(self.out / f"{name}{part}.tar.gz", "w:gz", compresslevel=1) as archive:
                for path in files:
                    archive.add(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs of params.yaml")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="stop after this time (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("work/gpu"), metavar="DIR", help="where to keep archives")
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="settings (default: params.yaml)")
    parser.add_argument("--device", default="cuda", help="where to compute (default: cuda)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    options = ["--params", given.params, "--device", given.device]
    session = Session(load_params(given.params), options, given.runs, given.minutes, given.out)
    threads = [threading.Thread(target=session.take, args=(name,)) for name in given.runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    artifacts.write_json(given.out / "session.json", {**maker.facts(), "stages": session.rows})


if __name__ == "__main__":
    main()
