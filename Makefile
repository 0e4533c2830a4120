# `make` lists what there is. Set-up itself is deploy/setup.sh.
SHELL := bash
BIN := .venv/bin

.PHONY: help setup demo test soak lint bench bench-train parity docs clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup:  ## .venv with every pinned dependency, Horovod and Delta's JARs; a second call takes a second
	@deploy/setup.sh

demo: setup  ## raw MovieLens ratings to recommendations and a report, all stages real
	@$(BIN)/recsys-spark run conf/pipelines/ml-1m.yaml

test: lint  ## lint, then all tests, two files at a time; RECSYS_DATA names a folder with ml-1m/ and ml-100k/ for the tests on real data
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: setup  ## the long tests: every model killed anywhere, a training killed twenty times, the path on a Spark cluster, the demo as shipped
	@$(BIN)/python -m pytest -m soak -o faulthandler_timeout=900

lint: setup  ## ruff, mypy and the layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup  ## the benchmark: prints its figures and writes them as JSON
	@$(BIN)/python -m tests.benchmarks

bench-train: setup  ## training speed; RECBOLE names an interpreter that has RecBole, which then runs beside it
	@$(BIN)/python -m tests.benchmarks.bench_train $(if $(RECBOLE),--recbole $(RECBOLE))

parity: setup  ## docs/parity.md anew: our figures beside the published ones, from raw data (hours; what is done is kept)
	@$(BIN)/recsys-spark parity

docs: setup  ## docs/models.md anew, from the models' files and docs/parity.md
	@$(BIN)/python -m recsys_spark.commands.model_page

clean:  ## remove caches and the output of the demo; .venv and the cache of set-up stay
	@rm -rf out build dist *.egg-info spark-warehouse metastore_db derby.log
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find recsys_spark tests jobs deploy -name __pycache__ -type d -prune -exec rm -rf {} +
