"""Grids of models on ColorMNIST."""
