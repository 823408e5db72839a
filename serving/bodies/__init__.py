"""The content of REST requests and replies: compressed bytes, JSON, and the tensors in it.

Only numpy and the standard library are imported, so that small processes (`worker`) can read large
bodies and write large replies: Python's JSON parser blocks all of its process, and a process can be
stopped.
"""
