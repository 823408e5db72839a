"""The replicas of a step: under `tf.distribute` each of them gets its rows of a batch.

Every replica has as many rows; those of replica r are the r-th part of the global batch, in order.
Without a strategy there is one replica, and these functions change nothing.
"""

from collections.abc import Callable

from tf_avae.backend import tf
from tf_avae.types import Tensor


def count() -> int:
    """How many replicas take this step together, or would if one were built now."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def own_rows(draw: Callable[[Tensor], Tensor], shape: Tensor) -> Tensor:
    """This replica's rows of what `draw` makes for the global batch.

    So the noise of an example is a function of the seed and of its place in the global batch,
    however many replicas there are.

    Args:
        draw: shape, int32 [R], to random numbers of that shape.
        shape: of the result; first the number of this replica's rows.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return draw(shape)
    whole = tf.concat([shape[:1] * replica.num_replicas_in_sync, shape[1:]], axis=0)
    first = replica.replica_id_in_sync_group * shape[0]
    return draw(whole)[first : first + shape[0]]


def gather(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows of all replicas, in the order of the global batch: [B] each to [global B] each."""
    if count() == 1:
        return columns
    rows = tf.stack(list(columns.values()), axis=1)
    whole = tf.distribute.get_replica_context().all_gather(rows, axis=0)
    return dict(zip(columns, tf.unstack(whole, num=len(columns), axis=1), strict=True))


def overflow_together(gradients: list[Tensor]) -> list[Tensor]:
    """The same gradients, not a number on every replica where they are not finite on one.

    Keras' `LossScaleOptimizer` looks at one replica's gradients, or at each replica's own, before
    they are summed: the replicas would disagree about whether to take the step.
    """
    if count() == 1:
        return gradients
    overflows = [~tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
    mine = tf.cast(tf.reduce_any(overflows), tf.float32)
    found = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, mine)
    first, *others = gradients
    return [tf.where(found > 0, tf.cast(float("nan"), first.dtype), first), *others]
