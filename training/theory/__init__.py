"""The two solvable cases, measured and drawn: `python -m training.theory {ppca,circle}`."""
