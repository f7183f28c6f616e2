"""Datasets: getting their files, reading every format, and images in memory."""
