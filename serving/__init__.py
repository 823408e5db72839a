"""Serving robust embeddings: export, server, clients."""
