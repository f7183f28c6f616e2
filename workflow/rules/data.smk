# Images, and the classifier whose features FID and KID compare.


rule fetch:
    input:
        own_files,
    output:
        data="results/data/{dataset}.npz",
        card="results/data/{dataset}.card.json",
        sheet="results/data/{dataset}.png",
        settings="results/data/{dataset}.settings.json",
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "benchmarks/fetch/{dataset}.tsv"
    params:
        key=key("fetch"),
        where=where,
    message:
        "Fetching {wildcards.dataset}"
    shell:
        command("fetch --dataset {wildcards.dataset}")


rule classifier:
    input:
        "results/data/{dataset}.npz",
    output:
        weights="results/classifiers/{dataset}.safetensors",
        settings="results/classifiers/{dataset}.settings.json",
    log:
        "logs/classifier/{dataset}.log",
    benchmark:
        "benchmarks/classifier/{dataset}.tsv"
    priority: -1
    threads: params.classifier.threads
    resources:
        gpu=GPU,
    params:
        key=key("classifier"),
        where=where,
    message:
        "Training the classifier of {wildcards.dataset}"
    shell:
        command("train classifier --dataset {wildcards.dataset}")


rule ladder:
    input:
        "results/data/{dataset}.npz",
        "results/classifiers/{dataset}.safetensors",
    output:
        scores="results/ladders/{dataset}.csv",
        examples="results/ladders/{dataset}.npz",
        settings="results/ladders/{dataset}.settings.json",
    log:
        "logs/ladder/{dataset}.log",
    benchmark:
        "benchmarks/ladder/{dataset}.tsv"
    threads: params.classifier.threads
    resources:
        gpu=GPU,
    params:
        key=key("ladder"),
        where=where,
    message:
        "Measuring impostors of {wildcards.dataset}"
    shell:
        command("ladder --dataset {wildcards.dataset}")
