"""Retrieval: nearest training examples by the Euclidean distance of embeddings as they are."""

import numpy as np


def nearest(embeddings: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Indices of the nearest training examples, nearest first.

    Args:
        embeddings: of the training examples, [N, D].
        queries: [M, D].
        count: k, at most N.

    Returns:
        [M, k].
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(embeddings)
    return index.kneighbors(queries, return_distance=False)


def agreement(found: np.ndarray, labels: np.ndarray, wanted: np.ndarray) -> tuple:
    """How far neighbours have the label of the query.

    Args:
        found: of `nearest`, [M, k].
        labels: of the training examples, class numbers [N].
        wanted: of the queries, class numbers [M].

    Returns:
        whether the commonest label of the k is the query's (the lowest of equally common ones
        counts), bool [M], and the part of the k that has the query's label, [M].
    """
    classes, columns = np.unique(labels, return_inverse=True)
    near = columns[found]
    votes = np.apply_along_axis(np.bincount, 1, near, minlength=len(classes))
    same = classes[near] == wanted[:, np.newaxis]
    return classes[votes.argmax(1)] == wanted, same.mean(1)
