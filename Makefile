# Each target makes what it needs; `make clean` removes all of it.
PYTHON ?= python3
VENV := .venv
OUT := demo-out

.PHONY: help demo test check apk clean

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile

demo: $(VENV)/.export  ## teach SmolLM2-135M which messages need a reply today
	$(VENV)/bin/prge demo --output $(OUT)

test: check  ## check style and types, then run all tests
	$(VENV)/bin/python -m pytest

check: $(VENV)/.test  ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

apk: | $(VENV)/bin/python  ## build the Android app: android_demo/apk/target/prge.apk
	$(VENV)/bin/python android_demo/apk/build.py apk

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

clean:  ## remove what the others made
	rm -rf $(VENV) $(OUT) build dist src/*.egg-info android_demo/*/target .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
