"""The precision study: float32 beside mixed precision."""
