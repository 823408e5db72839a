"""Run directories: the plan of a training, and its files."""
