"""The demo: the whole system on real models, driven, disturbed, graded and judged."""
