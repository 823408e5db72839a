"""The two errors a user of the package is meant to see."""


class InputError(ValueError):
    """A value that cannot be used. The message names the value, the limit and the remedy."""


class TrainingDiverged(RuntimeError):
    """A term of the bound stopped being a finite number."""
