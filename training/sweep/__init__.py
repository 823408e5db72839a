"""Many runs and evaluations as one piece of work: `python -m training.sweep SWEEP`."""
