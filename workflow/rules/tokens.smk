# All images as tokens, which is what the diffusion model learns from.


rule tokens:
    input:
        data_of,
        "results/models/{run}/vqsvae.safetensors",
    output:
        tokens="results/tokens/{run}.npz",
        settings="results/tokens/{run}.settings.json",
    log:
        "logs/tokens/{run}.log",
    benchmark:
        "benchmarks/tokens/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    priority: 4
    threads: lambda wildcards: recipe(wildcards).vqsvae.train.threads
    resources:
        gpu=GPU,
    params:
        key=key("tokens"),
        where=where,
    message:
        "Encoding the images of {wildcards.run}"
    shell:
        command("encode --run {wildcards.run}")
