# Tables and figures of a suite; `snakemake --report` collects them.


rule table:
    input:
        lambda wildcards: [
            f"results/metrics/{run}.{kind}"
            for run in params.suites[wildcards.suite]
            for kind in ("json", "notes.json")
        ],
    output:
        csv=report(
            "results/tables/{suite}.csv",
            caption="../report/table.rst",
            category="1 Tables",
            subcategory="{suite}",
            labels={"what": "numbers as CSV"},
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
        where=where,
    message:
        "Making the table of {wildcards.suite}"
    shell:
        command("table --suite {wildcards.suite}")


rule energy_table:
    input:
        lambda wildcards: [
            f"results/energy/{run}.json" for run in params.suites[wildcards.suite]
        ],
    output:
        csv=report(
            "results/tables/{suite}-energy.csv",
            caption="../report/energy.rst",
            category="1 Tables",
            subcategory="{suite}",
            labels={"what": "energies as CSV"},
        ),
        settings="results/tables/{suite}-energy.settings.json",
    log:
        "logs/table/{suite}-energy.log",
    benchmark:
        "benchmarks/table/{suite}-energy.tsv"
    params:
        key=key("energy_table"),
        where=where,
    message:
        "Making the table of energies of {wildcards.suite}"
    shell:
        command("table --energy --suite {wildcards.suite}")


# one rule for each kind of figure, as each is made from other files
for kind in suites.FIGURES:

    rule:
        name:
            f"{kind}_figure"
        input:
            figure_inputs(kind),
        output:
            png=report(
                f"results/figures/{{suite}}-{kind}.png",
                caption=f"../report/{kind}.rst",
                category="2 Figures",
                subcategory="{suite}",
                labels={"what": kind},
            ),
            others=[str(path) for path in suites.figure_paths("{suite}", kind)[1:]],
            settings=f"results/figures/{{suite}}-{kind}.settings.json",
        log:
            f"logs/figure/{{suite}}-{kind}.log",
        benchmark:
            f"benchmarks/figure/{{suite}}-{kind}.tsv"
        params:
            key=key(f"{kind}_figure"),
            where=where,
            kind=kind,
        message:
            f"Drawing the {kind} of {{wildcards.suite}}"
        shell:
            command("figure {params.kind} --suite {wildcards.suite}")


# made anew for every report, by `spiking-diffusion report`, and no artefacts: they tell of times and of this machine
for kind, category in suites.PAGES.items():

    rule:
        name:
            f"{kind}_page"
        input:
            lambda wildcards: suite_outputs(wildcards.suite),
        output:
            report(
                f"work/report/{{suite}}/{kind}.html",
                caption=f"../report/{kind}.rst",
                category=category,
                subcategory="{suite}",
                labels={"what": kind},
            ),
        log:
            f"logs/page/{{suite}}-{kind}.log",
        params:
            where=where,
            kind=kind,
        message:
            f"Writing the page {kind} of {{wildcards.suite}}"
        shell:
            command("page {params.kind} --suite {wildcards.suite}")
