"""Figures of a suite, a file for each theme. ``graph.suites`` says which file draws which."""
