# On a fresh machine with Python, pip and make: `make demo`, `make test`.

PYTHON ?= python3
BIN = .venv/bin
# Two workers: torch and onnxruntime use the cores that are left.
PYTEST = $(BIN)/python -m pytest -n 2

.PHONY: demo test test-long lint bench schema clean

demo: .venv/base
	$(BIN)/convert models/digits/digits_lenet.caffemodel digits_lenet.onnx --fold-bn --verify

test: .venv/test
	$(PYTEST) -m "not long"

# What takes longer than a commit should wait: the whole corpus in every form, thousands of damaged files.
test-long: .venv/test
	$(PYTEST) -m "long"

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/base
	$(BIN)/python benchmarks/convert_large.py

# caffe.desc is caffe.proto compiled; a test holds the two together.
schema: .venv/test
	$(BIN)/python -m grpc_tools.protoc -I converters/caffe/schema \
	    --descriptor_set_out=converters/caffe/schema/caffe.desc converters/caffe/schema/caffe.proto

clean:
	rm -rf .venv

.venv/base: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e .
	touch $@

.venv/test: .venv/base
	$(BIN)/pip install -q -e ".[test]"
	touch $@

.venv/lint: .venv/base
	$(BIN)/pip install -q -e ".[lint]"
	touch $@
