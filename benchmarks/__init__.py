"""Paired timings."""
