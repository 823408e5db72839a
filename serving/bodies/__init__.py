"""What REST requests and replies hold: compressed bytes, JSON, and the tensors in it.

Only numpy and the standard library are imported, so that large bodies are read and replies written
in small processes of their own (`worker`): Python's JSON parser lets nothing else run in its
process meanwhile, and a process can be stopped.
"""
