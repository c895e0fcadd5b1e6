.PHONY: check test-fast test thorough docs

check:  ## all static checks
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test-fast:  ## the tests that need neither minutes nor special hardware or programs
	pytest -n auto --dist loadfile -m "not slow and not gpu and not browser and not vllm"

test:  ## all tests but the longest; those whose hardware or programs are missing are skipped
	pytest -n auto --dist loadfile

thorough:  ## the tests that CI excludes
	pytest -m thorough

docs:  ## print docs/environment.md again from the docstring, build the site, and check the pages
	python -m cir_env > docs/environment.md
	python -m mkdocs build --strict
	pytest tests/docs tests/test_readme.py tests/agents/tracking/test_run_records.py
	python tests/support/pages.py
