"""A project with small valid results of suites of many kinds, without any training."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from spiking_diffusion import artifacts, paths
from spiking_diffusion.config import check_params
from spiking_diffusion.metrics.rows import write_row

RAW = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
RAW["suites"] |= {
    "both": ["digits-fsvae", "digits"],
    "two-alike": ["mnist", "mnist-k-0"],
    "two-datasets": ["cifar10", "digits", "digits-fsvae"],
    "baselines-only": ["digits-fsvae"],
    "methods": ["digits-ablation", "digits-poisson", "digits-poisson-s1", "digits-embedding"],
}
RAW["runs"] |= {f"seed-{s}": {"dataset": "digits", "recipe": "quick", "seed": s} for s in (1, 2)}
RAW["runs"] |= {f"k-1-{s}": {"dataset": "digits", "recipe": "quick", "seed": s, "vqsvae": {"k": 1.0}} for s in (0, 1)}
RAW["runs"] |= {
    f"{dataset}-wide-{n}": {"dataset": dataset, "recipe": "quick", "sdid": {"channels": [n, n, n, n]}}
    for dataset in ("digits", "mnist")
    for n in (8, 16)
}
RAW["suites"] |= {
    "lists": ["digits-wide-8", "digits-wide-16"],
    "lists-and-one": ["digits-wide-8", "digits-wide-16", "mnist"],
    "crossed": ["digits-wide-8", "digits-wide-16", "mnist-wide-8", "mnist-wide-16"],
}
RAW["suites"]["seeds"] = ["digits", "seed-1", "seed-2", "k-1-0", "k-1-1"]
PARAMS = check_params(RAW)

RUNGS = ["real", "halves of any two", "noise"]
COLUMNS = {
    "vqsvae": "loss reconstruction asg validation_mse perplexity k rate_encoder.first rate_encoder.third rate_asg",
    "fsvae": "loss reconstruction prior validation_mse rate_encoder.first rate_into_latent",
    "sdid": "loss validation_bits_per_token rate_first rate_rest.0",
}


def fill(params, suite):
    """Write small valid inputs for the table and all figures of a suite below the current folder."""
    draws = np.random.default_rng(0)
    for name in params.suites[suite]:
        run = params.resolve(name)
        shape = tuple(run.dataset.shape)
        images = draws.integers(0, 256, (40, *shape), np.uint8)
        artifacts.write_npz(paths.data_path(run.dataset_name), {"test_images": images})
        artifacts.write_npz(paths.reconstructions_path(name), {"images": images})
        artifacts.write_npz(paths.samples_path(name), {"images": images[::-1], "network_calls": np.array(1.0)})
        rungs = pd.DataFrame({"images": RUNGS, "fid": [0.1, 3.0, 90.0], "legible": [0.9, 0.4, 0.0]})
        artifacts.write_text(paths.ladder_path(run.dataset_name), rungs.to_csv(index=False))
        examples = {rung: draws.integers(0, 256, (10, *shape), np.uint8) for rung in RUNGS}
        artifacts.write_npz(paths.ladder_path(run.dataset_name).with_suffix(".npz"), examples)
        for model in run.family.networks:
            history = pd.DataFrame({"epoch": [1, 2, 3]})
            for column in COLUMNS[model].split():
                history[column] = draws.random(3)
            artifacts.write_text(paths.history_path(paths.model_path(name, model)), history.to_csv(index=False))
        row = {"dataset": run.dataset_name, "model": run.model, "run": name, "recipe": run.recipe_name, "seed": 0}
        row |= {key: draws.random() for key in ("mse", "ssim", "classifier_kid", "classifier_fid", "perplexity")}
        row |= {"legible": draws.random(), "class_balance": draws.random(), "test_legible": draws.random()}
        if run.model == "spiking-diffusion":
            tokens = {s: draws.integers(0, 20, (30, 7, 7)).astype(np.uint16) for s in ("train", "validation", "test")}
            tokens |= {"size": np.array(32), "vqsvae": np.array("0" * 64)}
            artifacts.write_npz(paths.tokens_path(name), tokens)
            channels, height, width = shape
            h, w = height // 4, width // 4
            trains = {f"{kind}_spikes": draws.integers(0, 2, (3, 5, h, w), np.uint8) for kind in ("encoder", "asg")}
            traces = {
                "codes": draws.integers(0, 256, (32, channels, 12, 12), np.uint8),
                "occurrences": draws.integers(0, 3, 32),
                "trajectory_tokens": np.sort(draws.integers(0, 33, (h * w + 1, 16, h, w)).astype(np.uint16), axis=0),
                "trajectory_images": draws.integers(0, 256, (h * w + 1, 16, *shape), np.uint8),
                "image": images[0],
                "reconstruction": images[1],
                **trains,
                **{key.replace("spikes", "psp"): train.astype(np.float32) / 2 for key, train in trains.items()},
            }
            artifacts.write_npz(paths.traces_path(name), traces)
            tried = {"sampler": "ancestral", "steps": [49, 49, 8], "temperature": [0.8, 1.0, 0.8], "network_calls": 9.0}
            tuning = pd.DataFrame({**tried, "fid": draws.random(3), "kid": draws.random(3), "chosen": [1, 0, 1]})
            artifacts.write_text(paths.tuning_path(name).with_suffix(".csv"), tuning.to_csv(index=False))
            row |= {"bits_per_token": draws.random(), "codes_used": 20, "k": 0.5, "sampler": "ancestral"}
        write_row(name, row)
