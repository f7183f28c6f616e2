# One flat JSON of numbers per run.


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
    message:
        "Measuring {wildcards.run}"
    shell:
        "spiking-diffusion evaluate --run {wildcards.run} > {log} 2>&1"


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
