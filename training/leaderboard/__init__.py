"""Evaluations as one table with rules of admission: `python -m training.leaderboard FILE ...`."""
