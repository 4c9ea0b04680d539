# Thin: the work is in tools/setup_env.py, nextbert_lite/cli.py and tools/notebooks.py. GNU make 3.81 or newer.
ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif

define HELP
make lab                 install, put your copies of the lessons into workspace/, open JupyterLab on lesson 00
make demo                install, pretrain a small encoder on real text and look at what it learned
make test                install, then lint and all tests; every lesson is executed and compared
make test LESSON=02      only the tests of one lesson, and the lesson itself
make check LESSON=02     the same without executing the lesson: while you work on it
make test-extras         install what the book, a real browser and streams need, then their tests
make test-slow           the tests that take minutes each
make bench               install, then measure speed beside Hugging Face, sentence-transformers and torch's own encoder
make checkpoints         train toy-small, docs-small, docs-contrastive and docs-rerank anew into data/checkpoints (two hours or more)
make book                install, then make the course a site to read, book/_build/html; it needs no network then
make book-serve          the same, and show it at http://127.0.0.1:8800, to this machine only; BOOK="--port 8801"
make notebooks           build the lessons from notebooks/source; with ONLY=02 one of them; with TIMES=1 measure too
make help                this list

make ... PYTHON=python3.12       the Python that makes .venv, at its first use (3.11 or newer; now: $(PYTHON))
make ... TORCH_INDEX=URL         a further package index for PyTorch, at the installation. Without it, pip on Linux takes
                                 a PyTorch of several GB, for NVIDIA GPUs; the small one, for the CPU, is at
                                 https://download.pytorch.org/whl/cpu
make lab LAB="--lesson 02"       options of `nextbert-lite start`; after -- those of JupyterLab: LAB="-- --no-browser"
make demo DEMO="--minutes 1"     options of `nextbert-lite demo`
make bench BENCH=--quick         options of the benchmark (--threads N, --out FILE)
endef

SETUP = @command -v $(firstword $(PYTHON)) > /dev/null || { echo "setup: there is no $(PYTHON) here: install Python 3.11 \
or newer (https://www.python.org/downloads), or name one that you have: make $@ PYTHON=python3.12"; exit 1; }; \
$(PYTHON) tools/setup_env.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))
PYTEST = TQDM_DISABLE=1 $(BIN)/python -m pytest
TOY_SMALL = --preset tiny --set init_std=fan_in --batch 64 --rate 0.5 --steps 9000
DOCS_SMALL = --preset small --set init_std=0.02 --batch 16 --lr 1e-3 --steps 28000 --bf16
NBVAL = --nbval-lax --nbval-cell-timeout=300
WORKERS = -n 2 --dist loadfile --no-loadscope-reorder
DOCS_PAIRS = --batch 160 --steps 900 --bf16
LESSON_FILES = $(wildcard notebooks/$(LESSON)_*.ipynb)
LESSON_TESTS = tests/test_lessons.py $(sort $(wildcard tests/test_checks*.py))
NO_LESSON = $(if $(LESSON_FILES),,$(error there is no lesson '$(LESSON)' in notebooks/; say which, as LESSON=02, or build \
it: make notebooks ONLY=$(LESSON)))

.PHONY: help lab demo test check test-extras test-slow bench checkpoints notebooks book book-serve

help:
	$(info $(HELP))
	@:

lab:
	$(SETUP)
	@$(BIN)/python -m nextbert_lite start workspace $(LAB)

demo:
	$(SETUP)
	@$(BIN)/python -m nextbert_lite demo $(DEMO)

ifdef LESSON
test:
	$(SETUP) --extra test
	$(NO_LESSON)
	$(PYTEST) -m "not slow" $(NBVAL) $(LESSON_FILES) $(LESSON_TESTS) -k "lesson$(LESSON) or ipynb"
else
test:
	$(SETUP) --extra test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	OMP_NUM_THREADS=1 $(PYTEST) $(WORKERS) -m "not slow" $(NBVAL) $(sort $(wildcard notebooks/*.ipynb)) tests
endif

check:
	$(SETUP) --extra test
	$(NO_LESSON)
	$(PYTEST) -m "not slow" $(LESSON_TESTS) -k lesson$(LESSON)

test-extras:
	$(SETUP) --extra test --extra book --extra browser --extra stream
	OMP_NUM_THREADS=1 $(PYTEST) $(WORKERS) tests/test_book.py tests/browser tests/test_streams.py

test-slow:
	$(SETUP) --extra test --extra grade
	$(PYTEST) -m slow tests

bench:
	$(SETUP) --extra test --extra bench
	$(BIN)/python -m benchmarks $(BENCH)

checkpoints:
	$(SETUP)
	$(BIN)/python -m nextbert_lite pretrain --corpus toy $(TOY_SMALL) --out data/checkpoints/toy-small --replace
	$(BIN)/python tools/toy_seeds.py $(TOY_SMALL)
	$(BIN)/python -m nextbert_lite pretrain --corpus docs $(DOCS_SMALL) --out data/checkpoints/docs-small --replace
	$(BIN)/python -m nextbert_lite pairs --data docs $(DOCS_PAIRS) --out data/checkpoints/docs-contrastive --replace
	$(BIN)/python tools/reranker.py

notebooks:
	$(SETUP) --extra test
	$(BIN)/python tools/notebooks.py build $(if $(ONLY),--only $(ONLY)) $(if $(TIMES),--times)

book:
	$(SETUP) --extra book
	@$(BIN)/python tools/book.py build

book-serve:
	$(SETUP) --extra book
	@$(BIN)/python tools/book.py serve $(BOOK)
