# One environment in .venv, made on first use and again when the requirements change.
VENV ?= .venv
PYTHON ?= python3
# Passed to pip, for example an index that serves CPU builds of torch:
#   make sweep PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
# With CONSTRAINTS= (empty) pip chooses the versions: the way to a CUDA build of torch.
CONSTRAINTS ?= constraints.txt
# Optional dependencies; the image has those of its own (docker/Dockerfile).
EXTRAS ?= dev
# Passed to the pipeline: make sweep ARGS="--preset smoke"
ARGS ?=
BIN = $(VENV)/bin

.PHONY: sweep submit test test-faults lint format ui bench install clean

sweep: install
	$(BIN)/python pipelines/lambda_sweep.py $(ARGS)

# A sweep on a running Ray cluster, with this checkout's code (docs/cluster.md):
#   make submit RAY_ADDRESS=http://127.0.0.1:8265 ARGS="--output /runs/first"
submit: install
	VENV="$(abspath $(VENV))" docker/submit.sh $(ARGS)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not faults" $(ARGS)

# Kills workers, drivers and nodes, fills disks, takes memory and MLflow away (docs/faults.md).
FAULTS ?= tests
test-faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m faults $(ARGS) $(FAULTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The MLflow UI of the newest sweep under runs/, or of OUTPUT=DIR.
OUTPUT ?= $(shell ls -td runs/*/ 2>/dev/null | head -n 1)
ui: install
	@test -f "$(OUTPUT)/mlflow.db" || { echo "no sweep in '$(OUTPUT)': run make sweep, or name one: make ui OUTPUT=DIR"; exit 2; }
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/python -m mlflow server \
		--backend-store-uri "sqlite:///$(abspath $(OUTPUT))/mlflow.db" --host 127.0.0.1 --port 5000 --workers 1

# All benchmarks, most of them beside RecBole and RecTools, which get environments of their own in the cache
# directory. The last two take an hour and
# more, go on where they were stopped, and write their tables again once they are through.
# SWEEP=DIR measures the knee point of that sweep instead of the same architecture with fresh weights.
SWEEP ?=
bench: install
	$(BIN)/python benchmarks/stages.py $(ARGS)
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/epoch_profile.py
	$(BIN)/python benchmarks/preparation.py
	$(BIN)/python benchmarks/serving.py --pip-args="$(PIP_ARGS)" $(if $(SWEEP),--output $(SWEEP))
	$(BIN)/python benchmarks/training.py --pip-args="$(PIP_ARGS)"
	$(BIN)/python benchmarks/evaluation.py --pip-args="$(PIP_ARGS)"
	$(BIN)/python benchmarks/targets_per_second.py --pip-args="$(PIP_ARGS)"
	$(BIN)/python benchmarks/item_tables.py
	$(BIN)/python benchmarks/cluster_load.py
	$(BIN)/python benchmarks/sweep_overhead.py
	$(BIN)/python benchmarks/sweep_cost.py
	$(BIN)/python benchmarks/time_to_accuracy.py --pip-args="$(PIP_ARGS)"
	$(BIN)/python benchmarks/same_networks.py --pip-args="$(PIP_ARGS)"
	$(BIN)/python benchmarks/feature_networks.py --pip-args="$(PIP_ARGS)"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
