# Steps 2 and 3 of the paper: learning to unmask tokens, choosing a temperature, and drawing images.


rule sdid:
    input:
        "results/tokens/{run}.npz",
        "results/models/{run}/vqsvae.safetensors",
    output:
        weights="results/models/{run}/sdid.safetensors",
        history="results/models/{run}/sdid.history.csv",
        settings="results/models/{run}/sdid.settings.json",
    log:
        "logs/sdid/{run}.log",
    benchmark:
        "benchmarks/sdid/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    priority: 4
    threads: lambda wildcards: recipe(wildcards).sdid.train.threads
    resources:
        gpu=GPU,
    params:
        key=key("sdid"),
        where=where,
    message:
        "Training the SDID of {wildcards.run}"
    shell:
        command("train sdid --run {wildcards.run}")


rule tune:
    input:
        data_of,
        classifier_of,
        "results/models/{run}/vqsvae.safetensors",
        "results/models/{run}/sdid.safetensors",
    output:
        chosen="results/tuning/{run}.json",
        tried="results/tuning/{run}.csv",
        settings="results/tuning/{run}.settings.json",
    log:
        "logs/tune/{run}.log",
    benchmark:
        "benchmarks/tune/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    threads: lambda wildcards: recipe(wildcards).sample.threads
    resources:
        gpu=GPU,
    params:
        key=key("tune"),
        where=where,
    message:
        "Choosing the temperature of {wildcards.run}"
    shell:
        command("tune --run {wildcards.run}")


rule sample:
    input:
        tuning_of,
        "results/models/{run}/vqsvae.safetensors",
        "results/models/{run}/sdid.safetensors",
    output:
        images="results/samples/{run}.npz",
        settings="results/samples/{run}.settings.json",
    log:
        "logs/sample/{run}.log",
    benchmark:
        "benchmarks/sample/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    threads: lambda wildcards: recipe(wildcards).sample.threads
    resources:
        gpu=GPU,
    params:
        key=key("sample"),
        where=where,
    message:
        "Drawing images from {wildcards.run}"
    shell:
        command("sample --run {wildcards.run}")


rule inspect:
    input:
        data_of,
        "results/tokens/{run}.npz",
        "results/models/{run}/vqsvae.safetensors",
        "results/models/{run}/sdid.safetensors",
        "results/samples/{run}.npz",
    output:
        traces="results/traces/{run}.npz",
        settings="results/traces/{run}.settings.json",
    log:
        "logs/inspect/{run}.log",
    benchmark:
        "benchmarks/inspect/{run}.tsv"
    wildcard_constraints:
        run="|".join(params.runs),
    threads: lambda wildcards: recipe(wildcards).sample.threads
    resources:
        gpu=GPU,
    params:
        key=key("inspect"),
        where=where,
    message:
        "Looking inside {wildcards.run}"
    shell:
        command("inspect --run {wildcards.run}")
