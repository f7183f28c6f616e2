# The baseline of Table 1.


rule fsvae:
    input:
        data_of,
    output:
        weights="results/models/{run}/fsvae.safetensors",
        history="results/models/{run}/fsvae.history.csv",
        settings="results/models/{run}/fsvae.settings.json",
    log:
        "logs/fsvae/{run}.log",
    benchmark:
        "benchmarks/fsvae/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.baselines),
    priority: 2
    threads: lambda wildcards: recipe(wildcards).fsvae.train.threads
    resources:
        gpu=GPU,
    params:
        key=key("fsvae"),
        where=where,
    message:
        "Training the FSVAE of {wildcards.run}"
    shell:
        command("train fsvae --run {wildcards.run}")


use rule sample as fsvae_sample with:
    input:
        "results/models/{run}/fsvae.safetensors",
    log:
        "logs/fsvae_sample/{run}.log",
    benchmark:
        "benchmarks/fsvae_sample/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.baselines),
    params:
        key=key("fsvae_sample"),
        where=where,
