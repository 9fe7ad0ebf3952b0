# Every target sets up .venv by itself and is quick the second time.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.rscd-installed
# one thread per process, else parallel tests wait for each other; modules are compiled once, not by
# every process that a test starts, even where the environment says otherwise
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.PHONY: help setup demo test slow quick coverage lint docs qgis-plugin format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

setup: $(STAMP)  ## create .venv with everything needed

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"rscd needs Python 3.11 to 3.13, found {v[0]}.{v[1]}; run make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing rscd and its dependencies into .venv (several GB the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: setup  ## synthetic scene pair -> change polygons and a picture
	@$(BIN)/rscd sample -o demo --overwrite --quiet > /dev/null
	@echo "rscd predict scene_t1.tif scene_t2.tif -o change.geojson"
	@cd demo && ../$(BIN)/rscd predict scene_t1.tif scene_t2.tif -o change.geojson \
	  --preview preview.png --min-area 20 --overwrite > /dev/null
	@echo "polygons: demo/change.geojson (drag it into QGIS over demo/scene_t2.tif)"
	@echo "picture:  demo/preview.png (t1, t2, change outlined)"
	@echo "truth:    demo/truth.geojson"

test: lint  ## lint, types and the tests, but for the slow ones
	@$(PYTEST) -q -n auto --maxprocesses 4 --dist worksteal -m "not slow"

slow: setup  ## tests that train, execute notebooks, fill memory or kill processes
	@$(PYTEST) -q -n auto --maxprocesses 4 --dist worksteal -m slow

# no training and no processes: what a change breaks first
QUICK := tests/test_layers.py tests/test_exports.py tests/base tests/geo tests/metrics \
  tests/evaluation/test_layers.py tests/cli/test_parser.py tests/cli/test_predict.py

quick: setup  ## style and the tests of a minute
	@$(BIN)/ruff check .
	@$(PYTEST) -q -n auto --maxprocesses 4 --dist worksteal -m "not slow and not realdata" $(QUICK)

coverage: setup  ## all tests in one process, and the share of lines and branches they run
	@$(BIN)/coverage erase
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --skip-covered --sort=miss

lint: setup  ## style and types only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy -n 2

docs: setup  ## the documentation site: build/site/index.html
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site:     build/site/index.html"

qgis-plugin:  ## the plugin for QGIS: dist/rscd_provider.zip
	@$(PYTHON) qgis/package.py dist/rscd_provider.zip
	@echo "plugin:   dist/rscd_provider.zip (QGIS: Plugins, Install from ZIP)"

format: setup  ## rewrite files in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove what make made
	rm -rf .venv demo build dist
