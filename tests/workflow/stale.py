"""Run in a project's folder: which files each tool would make again, for every params.yaml of a JSON list.

One process for all, since either tool takes seconds to start. `python stale.py VARIANTS.json` overwrites the list with
the answers: files that Snakemake would make, and files of the stages that DVC calls changed, or that follow from one.
"""

import json
import sys
from pathlib import Path

import networkx
from dvc.repo import Repo
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings, WorkflowSettings


def by_snakemake(target: str) -> list[str]:
    """Outputs of the jobs that Snakemake would run."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        flow = api.workflow(ResourceSettings(), workflow_settings=WorkflowSettings(), snakefile=Path("Snakefile"))
        flow.dag(DAGSettings(targets={target}, max_checksum_file_size=2_000_000_000))
        flow._workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
        flow._workflow._build_dag()
        return sorted(str(file) for job in flow._workflow.dag.needrun_jobs() for file in job.output)


def by_dvc(target: str) -> list[str]:
    """Outputs of the stages that ``dvc repro`` would run, if each made something new."""
    with Repo() as repo:
        changed = repo.status(targets=[target], with_deps=True)
        graph = repo.index.graph  # from a stage to those that it depends on
        stages = {stage for stage in graph if stage.addressing in changed}
        stages |= {after for stage in stages for after in networkx.ancestors(graph, stage)}
        return sorted(out.def_path for stage in stages for out in stage.outs)


if __name__ == "__main__":
    variants = Path(sys.argv[1])
    answers = []
    for text in json.loads(variants.read_text()):
        Path("params.yaml").write_text(text)
        answers.append((by_snakemake("quick"), by_dvc("suite-quick")))
    variants.write_text(json.dumps(answers))
