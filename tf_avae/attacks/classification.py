"""What attacks on a classifier maximise: logits [B, K] and labels [B] to one number [B].

Each is larger the closer an example is to being, or the more clearly it is, misclassified. Labels
are integers in [0, K): columns of the logits.
"""

from tf_avae.backend import tf
from tf_avae.errors import InputError
from tf_avae.inputs import labels_of
from tf_avae.types import PerExample, Tensor

_TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor) -> PerExample:
    """-log softmax(logits)[label], in nats, at least 0.

    Raises:
        InputError: logits or labels that do not fit; see `labels_of` for labels inside a graph.
    """
    logits, labels = _checked(logits, labels)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def margin(logits: Tensor, labels: Tensor) -> PerExample:
    """max_(k != label) z_k - z_label: above 0 where an example is misclassified, 0 at a tie.

    Raises:
        InputError: as `cross_entropy`.
    """
    return _margin(*_checked(logits, labels))


def logit_ratio(logits: Tensor, labels: Tensor) -> PerExample:
    """The difference of logits ratio of Croce & Hein (2020), eq. 6; needs 3 classes.

    margin / (z_(1) - z_(3)), z_(i) being the i-th largest logit: unlike the cross-entropy it does
    not change, nor does its gradient vanish, when all logits are scaled.

    Raises:
        InputError: as `cross_entropy`, or fewer classes.
    """
    logits, labels = _checked(logits, labels, least=3)
    top = tf.math.top_k(logits, 3).values
    return _margin(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_logit_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> PerExample:
    """The same towards one class, eq. 7 there; needs 4 classes.

    (z_target - z_label) / (z_(1) - (z_(3) + z_(4))/2).

    Raises:
        InputError: as `cross_entropy`, or fewer classes.
    """
    logits, labels = _checked(logits, labels, least=4)
    top = tf.math.top_k(logits, 4).values
    _, targets = _checked(logits, targets, "targets")
    of_label, _ = _split(logits, labels)
    of_target, _ = _split(logits, targets)
    return (of_target - of_label) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY)


def split_label(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of the label, [B], and all logits with that one at the lowest number, [B, K].

    Raises:
        InputError: as `cross_entropy`.
    """
    return _split(*_checked(logits, labels))


def _margin(logits: Tensor, labels: Tensor) -> PerExample:
    of_label, others = _split(logits, labels)
    return tf.reduce_max(others, axis=1) - of_label


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    is_label = tf.one_hot(labels, logits.shape[1], on_value=True, off_value=False)
    of_label = tf.reduce_sum(tf.where(is_label, logits, 0.0), axis=1)
    return of_label, tf.where(is_label, logits.dtype.min, logits)


def _checked(
    logits: Tensor, labels: Tensor, what: str = "labels", least: int = 2
) -> tuple[Tensor, Tensor]:
    logits = tf.convert_to_tensor(logits)
    shape = logits.shape
    if shape.rank != 2 or shape[1] is None or not logits.dtype.is_floating:
        raise InputError(
            f"logits are {logits.dtype.name} of shape {shape}; they must be floating-point numbers "
            "[N, K], K known to the graph"
        )
    if shape[1] < least:
        raise InputError(
            f"logits have {shape[1]} classes; this loss needs at least {least}"
            + ("" if least == 2 else ": use the margin or the cross-entropy")
        )
    count = tf.shape(logits)[0] if shape[0] is None else shape[0]
    return logits, labels_of(labels, count=count, classes=shape[1], what=what)
