# `snakemake --cores 8 all` makes every table and figure of the paper, `snakemake quick` the small tour.
include: "workflow/Snakefile"


workflow.default_target = "all"  # an included file has none
