"""Drawn faces in CelebA's format, a stand-in for the photographs."""
