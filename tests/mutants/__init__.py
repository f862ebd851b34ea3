"""A mutation tester for the code that money depends on: `python -m tests.mutants`, `make mutants`."""
