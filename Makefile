# Everything one does with Liger+. The logic is in scripts/; PYTHON=… picks the interpreter that makes .venv.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types architecture verify-proto fix-proto fix golden fix-constraints ci clean

help:             ## Show this list.
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*## /\t/' | expand -t 18
setup:            ## Make .venv and install Liger+ with its tools; nothing to do while it is up to date.
	@scripts/setup
demo: setup       ## Bring two small real models, serve them, use them once, stop.
	@.venv/bin/liger demo
test: setup       ## Run the tests but the slow ones.
	@scripts/test -m "not slow"
test-all: setup   ## Run all tests.
	@scripts/test
lint: setup       ## Check form and common mistakes.
	@scripts/lint
types: setup      ## Check the types.
	@.venv/bin/mypy
architecture: setup ## Check who may import whom, sizes, and the promises of the documents.
	@scripts/architecture
verify-proto: setup ## Check the contracts, that stubs fit them, and that clients are not broken.
	@scripts/verify-proto
fix-proto: setup  ## Format the contracts and generate the stubs.
	@scripts/fix-proto
fix: setup        ## Format the code and mend what can be mended.
	@scripts/fix
golden: setup     ## Renew the golden outputs that tests compare with (minutes).
	@.venv/bin/python -m tests.support.golden
fix-constraints: setup ## Pin what is installed in .venv.
	@.venv/bin/python scripts/fix_constraints.py
ci: lint types architecture verify-proto test ## Everything that must hold before a merge.
clean:            ## Remove what setup and the tools made (not the models).
	@scripts/clean
