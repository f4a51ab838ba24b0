PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: mine detect serve manifests test test-unit test-cluster test-all lint clean

# The environment is made once, and again whenever what it is made from changes. constraints.txt names every package that
# it holds, versions that were tried together; so pip has nothing to resolve.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --no-deps --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# Logs to mine where the user has none.
out/demo-logs/train/v1.0-demo/scene.json: | $(VENV)/.ready
	rm -rf out/demo-logs
	$(BIN)/python jobs/make_demo_logs.py --out out/demo-logs

mine: $(VENV)/.ready out/demo-logs/train/v1.0-demo/scene.json
	$(BIN)/python jobs/mine_fleet.py --logs out/demo-logs --store out/store

# A detector learns from the infrared camera of the training towns, and looks at that of others.
out/detector/detector.json: | $(VENV)/.ready out/demo-logs/train/v1.0-demo/scene.json
	$(BIN)/python jobs/train_detector.py --train out/demo-logs/train/coco_infrared.json --out out/detector \
	    --val out/demo-logs/test/coco_infrared.json --classes person,car,truck,bus --height 252 --width 448 \
	    --epochs 8 --licence "simulated, free"

detect: out/detector/detector.json
	rm -rf out/boxes
	$(BIN)/python jobs/predict_infrared.py --images out/demo-logs/test/samples/CAM_IR_FRONT --model out/detector \
	    --out out/boxes

# What a cloud would read, checked without one. NIGHTMINER_KUBERAY: a folder with KubeRay's resource definitions.
manifests: $(VENV)/.ready
	$(BIN)/python -m cluster.checks

# Any store; without STORE that of `make mine`. Without TOKEN_FILE a token is made and printed, for this machine only.
STORE ?= out/store
TOKEN_FILE ?=
DETECTOR ?= $(patsubst %/detector.json,%,$(wildcard out/detector/detector.json))
PORT ?= 8000
serve: $(VENV)/.ready
	@test -e $(STORE)/nightminer.json || case "$(STORE)" in *://*) ;; *) \
	    echo "no store at $(STORE): make mine makes one, or say make serve STORE=..." >&2; exit 2;; esac
	$(BIN)/python jobs/serve_store.py --store $(STORE) --port $(PORT) $(if $(TOKEN_FILE),--token-file $(TOKEN_FILE)) \
	    $(if $(DETECTOR),--detector $(DETECTOR))

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory --output-sync=target --jobs=2 test-unit test-cluster

# Side by side: tests on a cluster wait for processes to start for much of their time.
test-unit: $(VENV)/.ready
	$(BIN)/python -m pytest -m "not slow" tests/unit

test-cluster: $(VENV)/.ready
	$(BIN)/python -m pytest -m "not slow" tests/cluster

# With every number of workers after a kill, and signals to all processes.
test-all: $(VENV)/.ready
	$(BIN)/python -m pytest

lint: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

clean:
	rm -rf out build *.egg-info .pytest_cache .ruff_cache .mypy_cache
