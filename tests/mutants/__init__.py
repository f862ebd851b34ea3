"""A mutation tester for the code that money depends on: `make mutants`."""
