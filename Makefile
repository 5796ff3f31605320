# Needs make, any Python from 3.9 on, and bash for Spark's own scripts. Java and Redis come as wheels where the machine has none.
# CONTRACT and DATA choose the log of `make demo`; without them it simulates one.
.DEFAULT_GOAL := help
.PHONY: help install demo serve test audit soak-log soak-model chaos lint bench bench-asof bench-log bench-model bench-calibration bench-train bench-serving bench-materialize soak-materialize soak-serving env lock clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# uv trusts the certificates that this machine trusts; pip does by itself
export UV_SYSTEM_CERTS := 1

UV := .clickodds/uv/bin/uv
VENV := .venv/pyvenv.cfg
INSTALLED := .venv/.installed
BIN := .venv/bin
ENV := exported=$$($(BIN)/python -m conf.environment) && eval "$$exported"
# a version that only pyenv knows is found by its folder
VENV_PYTHONS := 3.12 $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python) 3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python)
ANY_PYTHONS := python3 /usr/bin/python3 $(wildcard $(HOME)/.pyenv/versions/3.*/bin/python)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## everything the other targets need, into .venv; they call it themselves

demo: $(INSTALLED) ## from a log to an answered request; CONTRACT=conf/contracts/x.yaml DATA=folder for a log of your own
	@$(BIN)/python -m demo $(if $(CONTRACT),--contract '$(CONTRACT)') $(if $(DATA),--data '$(DATA)')

serve: $(INSTALLED) ## keep serving what the newest finished demo promoted, until Ctrl-C
	@$(BIN)/python -m demo.serve

test: $(INSTALLED) ## the tests; ARGS='-k label -x' goes to pytest
	@$(ENV) && unset CLICKODDS_CONTRACT CLICKODDS_PROJECT CLICKODDS_STATE CLICKODDS_REDIS && $(BIN)/python -m pytest $(ARGS)

soak-log: $(INSTALLED) ## logs of 300,000 impressions with every fault, against their own books; jobs killed at 20 moments; long
	@$(MAKE) test ARGS='-n2 --dist=load -m soak tests/soak $(ARGS)'

soak-model: $(INSTALLED) ## tuning that is killed and goes on, a category of 100,000 values; long
	@$(MAKE) test ARGS='-n2 --dist=loadfile -m soak tests/jobs $(ARGS)'

soak-materialize: $(INSTALLED) ## materializations killed at 10 moments each, and Redis under them; long
	@$(MAKE) test ARGS='-n0 -m soak tests/feature_repo $(ARGS)'

soak-serving: $(INSTALLED) ## an hour of load: memory, descriptors and tasks of the server; ARGS='--minutes 2 --rate 300'
	@$(BIN)/python -m bench.serving_soak $(ARGS)

chaos: $(INSTALLED) ## a training whose executors and driver are killed; a server whose Redis stalls or dies, and too many callers; long
	@$(MAKE) test ARGS='-n0 -m chaos tests/chaos $(ARGS)'

audit: $(UV) ## known vulnerabilities of the packages of requirements.lock; asks PyPI
	@$(UV) tool run --quiet pip-audit@2.10.0 --strict --require-hashes --disable-pip -r requirements.lock

lint: $(INSTALLED) ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/mypy

bench: $(INSTALLED) bench-asof bench-log ## the measurements of bench/, one line of JSON each
	@$(BIN)/python bench/demo.py

bench-asof: $(INSTALLED) ## our as-of join against Feast and DuckDB, into docs/benchmarks.md; ARGS='--impressions 100000'
	@$(BIN)/python -m bench.asof $(ARGS)

bench-log: $(INSTALLED) ## the log's jobs at 10^6, 3 x 10^6 and 10^7 impressions, into docs/benchmarks.md; long
	@$(BIN)/python -m bench.log $(ARGS)

bench-model: $(INSTALLED) ## ours against baselines on later days, into docs/model-quality.md; CONTRACT=... DATA=folder for another log
	@$(ENV) && $(BIN)/python -m bench.model $(if $(CONTRACT),--contract '$(CONTRACT)') $(if $(DATA),--data '$(DATA)') $(ARGS)

bench-calibration: $(INSTALLED) ## days, slices, sampled negatives and withheld keys of a simulated log, into docs/model-quality.md; long
	@$(ENV) && $(BIN)/python -m bench.calibration $(ARGS)

bench-train: $(INSTALLED) ## our training against native XGBoost, to 10^7 rows, into docs/benchmarks.md; long
	@$(BIN)/python -m bench.train $(ARGS)

bench-serving: $(INSTALLED) ## a prediction's cost against Feast's SDK and an empty FastAPI route, into docs/benchmarks.md; long
	@$(BIN)/python -m bench.serving $(ARGS)

bench-materialize: $(INSTALLED) ## Feast's engines and ours from Delta into Redis, into docs/benchmarks.md; ARGS='--keys 100000'
	@$(BIN)/python -m bench.materialize $(ARGS)

env: $(INSTALLED) ## variables for spark-submit and feast by hand: eval "$(make env)"
	@$(BIN)/python -m conf.environment

lock: $(INSTALLED) ## resolve pyproject.toml and Spark's packages anew, with hashes
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.12 --all-extras pyproject.toml -o requirements.lock
	$(ENV) && $(BIN)/spark-submit conf/jars.py --write jars.lock

clean: ## remove .venv, caches and the demo's runs; tables, models and the id key stay
	rm -rf .venv .clickodds/uv .clickodds/demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV): requirements-uv.txt
	@echo 'installing uv' >&2
	@rm -rf .clickodds/uv
	@for python in $(ANY_PYTHONS); do \
	    $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || continue; \
	    $$python -m venv .clickodds/uv && break; \
	done; test -x .clickodds/uv/bin/python || { echo 'make: no Python from 3.9 on with its module venv; install one' >&2; exit 75; }
	@.clickodds/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@touch $@

# a file of the folder's own: .venv/bin/python is a link to a Python that may be anybody's
$(VENV): $(UV)
	@for python in $(VENV_PYTHONS); do \
	    $(UV) venv --quiet --clear --no-python-downloads --python $$python .venv 2>/dev/null && break; \
	done; test -x $(BIN)/python || $(UV) venv --clear --python 3.12 .venv
	@touch $@

# the jars are fetched once and checked, so that nothing later needs the network
$(INSTALLED): $(VENV) requirements.lock pyproject.toml jars.lock
	@echo 'installing the packages of requirements.lock' >&2
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --no-index --editable .
	@echo "fetching Spark's jars" >&2
	@$(ENV) && { $(BIN)/spark-submit conf/jars.py --check jars.lock >.clickodds/jars.log 2>&1 || \
	    { code=$$?; tail -n 20 .clickodds/jars.log >&2; exit $$code; }; }
	@touch $@
