# Each target makes what it needs; `make clean` removes all of it.
PYTHON ?= python3
VENV := .venv
OUT := demo-out

.PHONY: help demo test test-android java check apk clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: $(VENV)/.export  ## teach SmolLM2-135M which messages need a reply today
	$(VENV)/bin/prge demo --output $(OUT)

test: check  ## check style and types, then run all tests
	$(VENV)/bin/python -m pytest

test-android: java $(VENV)/.test  ## build and test all under android_demo (needs a JDK 17 and Maven)
	cd android_demo && mvn -q -B package -Dpython=$(CURDIR)/$(VENV)/bin/python
	$(VENV)/bin/python -m pytest tests/test_kotlin*.py tests/test_apk.py

java:
	@for tool in javac mvn c++; do command -v $$tool >/dev/null || { echo "$$tool is missing: this needs a JDK 17, Maven \
	and a C++ compiler; on Debian: apt-get install openjdk-17-jdk-headless maven g++"; exit 1; }; done

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
	rm -rf $(VENV) $(OUT) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf android_demo/*/target
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
