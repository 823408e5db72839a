"""Where an attack may go: the ball around images, within the bounds of pixel values."""

from tf_avae.attacks.balls import Ball
from tf_avae.backend import tf
from tf_avae.types import Images, Tensor


class Domain:
    """The points in the ball around some images that lie within the bounds of pixel values.

    Attributes:
        images: the centres, [B, H, W, C].
        ball: a row of `BALLS`.
        epsilon: radius; a number, or a scalar tensor of a floating-point type.
        bounds: smallest and largest pixel value.
    """

    def __init__(
        self, images: Images, ball: Ball, epsilon: Tensor, bounds: tuple[float, float] = (0.0, 1.0)
    ):
        self.images, self.ball, self.bounds = images, ball, bounds
        self.epsilon = tf.cast(epsilon, tf.float32)

    def confine(self, candidate: Images) -> Images:
        """The point of the ball, and then of the bounds, next to a candidate."""
        delta = self.ball.project(candidate - self.images, self.epsilon)
        return tf.clip_by_value(self.images + delta, *self.bounds)

    def towards(self, pattern: Images) -> Images:
        """The point on the ball's surface in a direction, [B, H, W, C] or less, then of the
        bounds."""
        pattern = tf.broadcast_to(pattern, tf.shape(self.images))
        return self.confine(self.images + self.epsilon * self.ball.direction(pattern))

    @property
    def lowest(self) -> Images:
        """The smallest value that each pixel may take in the L-infinity ball."""
        return tf.maximum(self.images - self.epsilon, self.bounds[0])

    @property
    def highest(self) -> Images:
        """The largest value that each pixel may take in the L-infinity ball."""
        return tf.minimum(self.images + self.epsilon, self.bounds[1])
