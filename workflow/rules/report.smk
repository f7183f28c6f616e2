# Tables and figures of a suite; `snakemake --report` collects them.


rule table:
    input:
        lambda wildcards: [
            str(artifacts.metrics_path(run)) for run in params.suites[wildcards.suite]
        ],
    output:
        csv=report(
            "results/tables/{suite}.csv",
            caption="../report/table.rst",
            category="{suite}",
            labels={"what": "table"},
        ),
        markdown="results/tables/{suite}.md",
        latex="results/tables/{suite}.tex",
        settings="results/tables/{suite}.settings.json",
    log:
        "logs/table/{suite}.log",
    benchmark:
        "benchmarks/table/{suite}.tsv"
    params:
        key=key("table"),
    message:
        "Making the table of {wildcards.suite}"
    shell:
        "spiking-diffusion table --suite {wildcards.suite} > {log} 2>&1"


rule samples_figure:
    input:
        figure_inputs("samples"),
    output:
        png=report(
            "results/figures/{suite}-samples.png",
            caption="../report/samples.rst",
            category="{suite}",
            labels={"what": "samples"},
        ),
        vector=multiext(
            "results/figures/{suite}-samples", ".svg", ".pdf", ".settings.json"
        ),
    log:
        "logs/figure/{suite}-samples.log",
    benchmark:
        "benchmarks/figure/{suite}-samples.tsv"
    params:
        key=key("figure"),
        kind="samples",
    message:
        "Drawing the samples of {wildcards.suite}"
    shell:
        "spiking-diffusion figure {params.kind} --suite {wildcards.suite} > {log} 2>&1"


use rule samples_figure as losses_figure with:
    input:
        figure_inputs("losses"),
    output:
        png=report(
            "results/figures/{suite}-losses.png",
            caption="../report/losses.rst",
            category="{suite}",
            labels={"what": "losses"},
        ),
        vector=multiext(
            "results/figures/{suite}-losses", ".svg", ".pdf", ".settings.json"
        ),
    log:
        "logs/figure/{suite}-losses.log",
    benchmark:
        "benchmarks/figure/{suite}-losses.tsv"
    params:
        key=key("figure"),
        kind="losses",
    message:
        "Drawing the losses of {wildcards.suite}"


use rule samples_figure as codebook_figure with:
    input:
        figure_inputs("codebook"),
    output:
        png=report(
            "results/figures/{suite}-codebook.png",
            caption="../report/codebook.rst",
            category="{suite}",
            labels={"what": "codebook"},
        ),
        vector=multiext(
            "results/figures/{suite}-codebook", ".svg", ".pdf", ".settings.json"
        ),
    log:
        "logs/figure/{suite}-codebook.log",
    benchmark:
        "benchmarks/figure/{suite}-codebook.tsv"
    params:
        key=key("figure"),
        kind="codebook",
    message:
        "Drawing the codebook's use of {wildcards.suite}"
