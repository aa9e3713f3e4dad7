# Weft in two commands:  make lab  (a pod network to play with)   make test  (all tests)
.PHONY: help lab down test lint bench image setup setup-containerd setup-dev

WEFT = .venv/bin/weft

help:
	@echo "make lab    bring up two nodes and prove that every pod reaches every pod"
	@echo "make down   remove the lab"
	@echo "make test   run all tests"
	@echo "make lint   style, types and layers"
	@echo "make image  build the manifest's image, without a container engine"
	@echo "make bench  measure against the Go plugins and a network set up by hand"

setup:
	@scripts/setup lab

setup-containerd:
	@scripts/setup containerd

setup-dev:
	@scripts/setup dev

lab: setup
	@$(WEFT) lab up
	@$(WEFT) lab check

down: setup
	@$(WEFT) lab down

test: setup-dev
	@.venv/bin/python -m pytest -n 4 $(ARGS)

lint: setup-dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy src tests bench deploy/build_image.py
	@.venv/bin/lint-imports

bench: setup-dev
	@.venv/bin/python -m bench $(ARGS)

image: setup-dev
	@.venv/bin/python deploy/build_image.py build/weft-image.tar
