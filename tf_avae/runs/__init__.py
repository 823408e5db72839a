"""Run directories: what is trained, and what is written of it."""
