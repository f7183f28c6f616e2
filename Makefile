# make quick   set-up and the whole pipeline on scikit-learn's digits: CPU, minutes, no download of data
# make test    set-up and all tests
# make faults  kill every stage hundreds of times: some 20 minutes
# make mutants make some fifty errors in copies of the project, and print which test sees each
# make docs    the documentation as a site, site/index.html
# make lint    formatters, linters, the type checker and the layers of the package
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
# uv takes a minute where pip takes three; without byte code every job would compile what it imports
INSTALL := $(if $(shell command -v uv),uv pip install --python $(BIN)/python --compile-bytecode,$(BIN)/python -m pip install --disable-pip-version-check)
export PATH := $(BIN):$(PATH)

.PHONY: setup quick digests test faults mutants lint format generated docs lock clean

setup: .venv/ready

# the stamp comes last, so that a set-up cut short is made again
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

quick: setup
	snakemake --cores 2 --quiet host reason -- quick
	spiking-diffusion report --suite quick
	@cat results/tables/quick.md

# after `make quick`: its main numbers, with which tests/smoke compares those of other machines
digests: setup
	python tests/smoke/test_digests.py

# a file of tests is one process's, because its tests share what they make; waiting threads must not hold a core
test: setup
	OMP_WAIT_POLICY=passive python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

faults: setup
	KILLS=8 python -m pytest tests/faults
	python -m pytest -m slow

# a table for docs/mutants.md; fails if no test sees an error
mutants: setup
	@python tests/mutants.py

lint: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	lint-imports --no-logo
	python -m pytest tests/workflow/test_graph.py -k lint

format: setup
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

# files that are generated from the package, params.yaml and pyproject.toml
generated: setup
	@spiking-diffusion dvc > /dev/null # a mistake in params.yaml stops here, before files are emptied
	spiking-diffusion dvc > dvc.yaml
	spiking-diffusion schema > workflow/schemas/params.schema.json
	spiking-diffusion recipes > docs/recipes.md
	python docs/layers.py

# the packages come on top of the locked ones
docs: setup
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

# needs uv; the lock names no index, so that any mirror serves it
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -o requirements.lock

clean:
	rm -rf results/*/ results/report.html work logs benchmarks site .snakemake
