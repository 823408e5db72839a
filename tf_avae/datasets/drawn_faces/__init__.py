"""Drawn faces in CelebA's format, where the photographs cannot be had."""
