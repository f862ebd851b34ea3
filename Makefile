# Every target makes its own virtual environments; nothing has to be installed first but Python
# 3.11 or newer, make and a C++ compiler.
PYTHON ?= python3
VENV ?= .venv
CLOUD_VENV ?= .venv-cloud
COMPAT_VENV ?= .venv-compat
# What `make test` hands to pytest: make test ARGS="-k lease -x"
ARGS ?=

READY := $(VENV)/.installed
CLOUD_READY := $(CLOUD_VENV)/.installed
COMPAT_READY := $(COMPAT_VENV)/.installed
BIN := $(VENV)/bin
PY := $(BIN)/python
PROTOS := $(wildcard proto/shared/pb/v1/*.proto)

export CLOUD_VENV COMPAT_VENV
# These start processes by the dozen, each of which is to find its modules compiled.
demo up test chaos bench: export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help install demo up test chaos mutants lint format bench proto clean

help: ## show this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) $(CLOUD_READY) ## prepare both virtual environments (every target does it by itself)

demo: install ## run the whole system on real models for a few minutes and judge it
	$(PY) -m deploy.demo.run $(ARGS)

up: install ## start the same set and leave it running
	$(PY) -m deploy.demo.run --up $(ARGS)

test: install $(COMPAT_READY) ## run every test
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

chaos: install ## break real processes for 5 minutes and judge the books; ARGS="--seed 2 --seconds 60"
	$(PY) -m tests.chaos $(ARGS)

mutants: install ## change the money's code in small ways and see whether a test notices; ARGS="account"
	$(PY) -m tests.mutants $(ARGS)

lint: $(READY) ## check style, types, layers and that the generated code is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=deploy/demo/models $(BIN)/mypy $(filter-out %/tasks.py,$(wildcard deploy/demo/models/*.py))
	$(BIN)/lint-imports
	$(PY) -m pytest --quiet tests/unit/test_project.py -k generated

format: $(READY) ## rewrite the code in the common style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: install ## measure speed and quality
	$(PY) -m tests.bench $(ARGS)

proto: $(READY) ## generate shared/pb from proto/
	$(PY) -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)

clean: ## remove the environments and what was built or measured; the compiled wheel stays cached
	rm -rf $(VENV) $(CLOUD_VENV) $(COMPAT_VENV) build dist *.egg-info demo-out demo-report.json demo-run.png \
		bench-report.json chaos-report.json .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt deploy/dev/bootstrap.py
	$(PYTHON) deploy/dev/bootstrap.py dev $(VENV)

$(CLOUD_READY): deploy/demo/cloud-constraints.txt deploy/dev/bootstrap.py
	$(PYTHON) deploy/dev/bootstrap.py cloud $(CLOUD_VENV)

$(COMPAT_READY): tests/compat/constraints.txt tests/compat/package.json deploy/dev/bootstrap.py
	$(PYTHON) deploy/dev/bootstrap.py compat $(COMPAT_VENV)
