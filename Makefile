# Every target sets up what it needs in .venv by itself. Portable to the make 3.81 that macOS ships.
# Options for the program behind a target go in ARGS: make chat ARGS="--port 7861 --no-browser".

PY := .venv/bin/python
ARGS :=
JOBS := 2

.DEFAULT_GOAL := help
.PHONY: help chat test test-slow check parity bench hooks clean

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

chat:  ## Talk to k2-nano in the browser (sets everything up first)
	@sh scripts/setup.sh chat
	@$(PY) -m k2mlx chat $(ARGS)

test:  ## Run the tests; those of the page run where Chromium is installed
	@sh scripts/setup.sh dev
	@$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-slow:  ## Run the proofs at K2's true width: 55 GB of disk, 16 GB of memory, minutes
	@sh scripts/setup.sh dev
	@$(PY) -m pytest -m slow -n 0 -s $(ARGS)

check:  ## Lint, format, types and the direction of imports
	@sh scripts/setup.sh dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/ty check
	.venv/bin/lint-imports

parity:  ## Compare with transformers on torch (downloads torch)
	@sh scripts/setup.sh torch
	@.venv-torch/bin/python -m pytest -m torch -n 0 $(ARGS)

bench:  ## Measure k2-nano against mlx-lm on this machine
	@sh scripts/setup.sh bench
	@$(PY) -m k2mlx bench --model models/k2-nano $(ARGS)

hooks:  ## Run make check before every commit
	git config core.hooksPath .githooks

clean:  ## Remove all that make has set up (k2mlx clean removes what k2mlx has written)
	rm -rf .venv .venv-torch build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
