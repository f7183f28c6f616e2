"""The graph of jobs: every stage, its files, its settings and its code."""
