"""Where files come from: what Snakemake, DVC and the settings beside each file say of it, and whether they agree."""
