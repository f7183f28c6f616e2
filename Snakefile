# Spiking-Diffusion: `snakemake --cores 8 all` makes every table and figure of the paper, `snakemake quick`
# the small tour. Rules call the command line `spiking-diffusion`; params.yaml holds every setting.
from snakemake.utils import min_version
from spiking_diffusion.provenance import status

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/vqsvae.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/sdid.smk"
include: "workflow/rules/fsvae.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


report: "workflow/report/workflow.rst"


onstart:
    with one_sentence():
        locks.check_notes()
    # Snakemake's own lock outlives a killed holder and ends with whichever instance ends first: the profile disables it
    locks.one_snakemake()
    for line in status.warning(params, workflow.dag_settings.targets):
        print(line, file=sys.stderr)


onsuccess:
    for line in status.summary(params, workflow.dag_settings.targets):
        print(line)


rule all:
    default_target: True
    input:
        [
            suite_outputs(suite)
            for suite in params.suites
            if not {"quick", "small"}.intersection(suite.split("-"))
        ],


# the small ablations on digits, three seeds each
rule:
    name:
        "ablations-quick"
    input:
        [
            suite_outputs(suite)
            for suite in params.suites
            if suite.startswith("ablation-") and suite.endswith("-quick")
        ],


# every suite is a target of its own: `snakemake quick`, `snakemake table1`
for suite in params.suites:
    if workflow.is_rule(suite):
        print(
            f"error: suites.{suite}: a step of the pipeline has that name, choose another",
            file=sys.stderr,
        )
        sys.exit(2)

    rule:
        name:
            suite
        input:
            suite_outputs(suite),


if workflow.exec_mode == ExecMode.DEFAULT:
    with one_sentence():
        check_targets(params, sys.argv[1:], {rule.name for rule in workflow.rules})
