"""Retrieval: nearest training examples by their embeddings."""

import numpy as np

from tf_avae.errors import InputError
from tf_avae.inputs import label_array


class Neighbours:
    """Nearest training examples by the Euclidean distance of embeddings as they are.

    Args:
        embeddings: of the training examples, [N, D].
        labels: of the training examples by task, class numbers [N] each.
        count: neighbours of a query, k, at most N.

    Raises:
        InputError: more neighbours than examples, or labels that are no class numbers.
    """

    def __init__(self, embeddings: np.ndarray, labels: dict[str, np.ndarray], count: int):
        if not 1 <= count <= len(embeddings):
            raise InputError(
                f"neighbours is {count}; it must be from 1 to the {len(embeddings)} training images"
            )
        self.labels = {
            task: label_array(of_task, count=len(embeddings), what=f"labels of {task!r}")
            for task, of_task in labels.items()
        }
        from sklearn.neighbors import NearestNeighbors

        self._index = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(embeddings)

    def find(self, embeddings: np.ndarray) -> np.ndarray:
        """Indices of the nearest training examples, nearest first: [M, D] to [M, k]."""
        return self._index.kneighbors(embeddings, return_distance=False)

    def agreement(self, found: np.ndarray, task: str, labels: np.ndarray) -> tuple:
        """How far neighbours have the label of the query.

        Args:
            found: from `find`, [M, k].
            task: a key of the training labels.
            labels: of the queries, class numbers [M].

        Returns:
            whether the commonest label of the k is the query's (the lowest of equally common
            ones counts), bool [M], and the part of the k that has the query's label, [M].
        """
        labels = label_array(labels, count=len(found), what=f"labels of {task!r}")
        classes, columns = np.unique(self.labels[task], return_inverse=True)
        near = columns[found]
        votes = np.apply_along_axis(np.bincount, 1, near, minlength=len(classes))
        same = classes[near] == labels[:, np.newaxis]
        return classes[votes.argmax(1)] == labels, same.mean(1)
