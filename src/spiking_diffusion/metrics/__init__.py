"""Measuring reconstructions and samples."""
