"""Cells of a sweep: what they are, where they are kept, and the processes that do them."""
