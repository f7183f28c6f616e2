# Step 1 of the paper: images to a discrete latent space and back.


rule vqsvae:
    input:
        images_or_vqsvae_of,
    output:
        weights="results/models/{run}/vqsvae.safetensors",
        history="results/models/{run}/vqsvae.history.csv",
        settings="results/models/{run}/vqsvae.settings.json",
    log:
        "logs/vqsvae/{run}.log",
    benchmark:
        "benchmarks/vqsvae/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    priority: 3
    threads: lambda wildcards: recipe(wildcards).vqsvae.train.threads
    resources:
        gpu=GPU,
    params:
        key=key("vqsvae"),
        where=where,
    message:
        "Training the VQ-SVAE of {wildcards.run}"
    shell:
        command("train vqsvae --run {wildcards.run}")
