# One flat JSON of numbers per run, and what drawing an image costs.


rule evaluate:
    input:
        data_of,
        classifier_of,
        "results/samples/{run}.npz",
        "results/models/{run}/vqsvae.safetensors",
        "results/models/{run}/sdid.safetensors",
        "results/tokens/{run}.npz",
    output:
        metrics="results/metrics/{run}.json",
        notes="results/metrics/{run}.notes.json",
        reconstructions="results/reconstructions/{run}.npz",
        settings="results/metrics/{run}.settings.json",
    log:
        "logs/evaluate/{run}.log",
    benchmark:
        "benchmarks/evaluate/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    threads: lambda wildcards: recipe(wildcards).evaluate.threads
    resources:
        gpu=GPU,
    params:
        key=key("evaluate"),
        where=where,
    message:
        "Measuring {wildcards.run}"
    shell:
        command("evaluate --run {wildcards.run}")


rule energy:
    input:
        data_of,
        "results/samples/{run}.npz",
        "results/models/{run}/vqsvae.safetensors",
        "results/models/{run}/sdid.safetensors",
    output:
        totals="results/energy/{run}.json",
        layers="results/energy/{run}.csv",
        settings="results/energy/{run}.settings.json",
    log:
        "logs/energy/{run}.log",
    benchmark:
        "benchmarks/energy/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    threads: lambda wildcards: recipe(wildcards).sample.threads
    resources:
        gpu=GPU,
    params:
        key=key("energy"),
        where=where,
    message:
        "Counting the operations of {wildcards.run}"
    shell:
        command("energy --run {wildcards.run}")


use rule energy as fsvae_energy with:
    input:
        data_of,
        "results/models/{run}/fsvae.safetensors",
    log:
        "logs/fsvae_energy/{run}.log",
    benchmark:
        "benchmarks/fsvae_energy/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.baselines),
    params:
        key=key("fsvae_energy"),
        where=where,


use rule evaluate as fsvae_evaluate with:
    input:
        data_of,
        classifier_of,
        "results/samples/{run}.npz",
        "results/models/{run}/fsvae.safetensors",
    log:
        "logs/fsvae_evaluate/{run}.log",
    benchmark:
        "benchmarks/fsvae_evaluate/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.baselines),
    params:
        key=key("fsvae_evaluate"),
        where=where,
