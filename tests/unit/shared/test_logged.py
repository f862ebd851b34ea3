"""A logged decision as a line of JSON."""
