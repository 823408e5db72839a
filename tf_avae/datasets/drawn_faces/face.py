"""Faces drawn from CelebA's attributes: a stand-in for the photographs.

What the 17 tasks ask for is in each picture: hair colour and texture, baldness, bangs, glasses,
hat, smile, lipstick, earrings, necklace, necktie, mustache, beard. A drawn man has a square jaw,
heavy brows, a broad neck and a collar, a drawn woman a pointed chin, thin brows, lashes and a wide
neckline: a convention of these drawings. All else is drawn at random: place, size, light, skin,
background, clothes, and the shades of what an attribute names.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tf_avae.backend import Lazy
from tf_avae.datasets.celeb_a.tasks import ATTRIBUTES

if TYPE_CHECKING:
    from PIL import Image, ImageDraw
else:
    Image, ImageDraw = Lazy("PIL.Image"), Lazy("PIL.ImageDraw")

WIDTH, HEIGHT = 178, 218
"""Of the official aligned photographs."""

_SCALE = 2  # drawn larger and shrunk, for smooth edges
_EYES = (89.0, 101.0)  # where the middle between the eyes is, on average

Color = tuple[int, int, int]
Point = tuple[float, float]

_HAIR: dict[str, Color] = {
    "Black_Hair": (22, 20, 24),
    "Blond_Hair": (232, 198, 104),
    "Brown_Hair": (112, 66, 30),
    "Gray_Hair": (172, 172, 178),
}
_OTHER_HAIR = ((176, 52, 28), (150, 40, 120), (40, 110, 120))  # red and dyed
_SKIN = np.array([[246, 216, 194], [226, 178, 144], [190, 138, 100], [128, 86, 58]])
_LIPSTICKS = ((196, 16, 40), (214, 30, 110), (140, 10, 60))
_JEWELS = ((255, 214, 50), (250, 250, 255), (40, 220, 220), (240, 40, 60))
_VIVID = ((190, 30, 40), (30, 60, 170), (20, 120, 60), (120, 40, 130), (225, 150, 20), (20, 20, 24))


class Face:
    """A canvas whose coordinates are pixels of the official size, from the middle of the eyes."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.zoom = rng.uniform(0.94, 1.06)
        self.origin = np.array(_EYES) + rng.uniform(-5, 5, 2)
        self.image = self._background()
        self.draw = ImageDraw.Draw(self.image)

    def _background(self) -> "Image.Image":
        """Two colours that run into one another, and a few pale discs."""
        corners = self.rng.integers(30, 226, (2, 2, 3)).astype(np.uint8)
        image = Image.fromarray(corners).resize(
            (WIDTH * _SCALE, HEIGHT * _SCALE), Image.Resampling.BILINEAR
        )
        draw = ImageDraw.Draw(image)
        for _ in range(self.rng.integers(0, 4)):
            x, y = self.rng.uniform(0, 1, 2) * (WIDTH, HEIGHT)
            r = self.rng.uniform(8, 40)
            box = [float(v * _SCALE) for v in (x - r, y - r, x + r, y + r)]
            draw.ellipse(box, tuple(self.rng.integers(60, 226, 3).tolist()))
        return image

    def pick(self, colors: tuple[Color, ...], spread: int = 14) -> Color:
        """One of the colours, in a shade of its own."""
        return self.shade(colors[self.rng.integers(len(colors))], spread)

    def shade(self, color: Color, spread: int = 14) -> Color:
        """A colour near this one."""
        return _color(np.array(color) + self.rng.integers(-spread, spread + 1, 3))

    def _at(self, *points: Point) -> list[Point]:
        placed = (np.array(points) * self.zoom + self.origin) * _SCALE
        return [(float(x), float(y)) for x, y in placed]

    def _width(self, width: float) -> int:
        return max(1, round(width * self.zoom * _SCALE))

    def oval(self, x: float, y: float, rx: float, ry: float, fill=None, outline=None, width=0.0):
        """An ellipse around (x, y)."""
        box = self._at((x - rx, y - ry), (x + rx, y + ry))
        self.draw.ellipse(box, fill, outline, self._width(width) if width else 0)

    def slice(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill):
        """What a straight cut leaves of an ellipse; degrees, clockwise from the right."""
        self.draw.chord(self._at((x - rx, y - ry), (x + rx, y + ry)), start, end, fill)

    def shape(self, points: list[Point], fill: Color):
        """A polygon."""
        self.draw.polygon(self._at(*points), fill)

    def both(self, points: list[Point], fill: Color):
        """A polygon and its mirror image."""
        self.shape(points, fill)
        self.shape([(-x, y) for x, y in points], fill)

    def line(self, points: list[Point], fill: Color, width: float):
        """A bent line."""
        self.draw.line(self._at(*points), fill, self._width(width), joint="curve")

    def finished(self) -> "Image.Image":
        """The picture at the official size, under a light and with the noise of a camera."""
        pixels = np.asarray(self.image.reduce(_SCALE), np.float32)
        left, right = self.rng.uniform(0.85, 1.12, 2)
        light = np.linspace(left, right, WIDTH, dtype=np.float32)
        noise = self.rng.integers(-5, 5, pixels.shape, np.int8, endpoint=True)
        lit = pixels * light[None, :, None] + noise
        return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


class _Look(NamedTuple):
    """The colours of one face, and which attributes it has."""

    has: dict[str, bool]
    skin: Color
    dark_skin: Color
    hair: Color
    streak: Color
    cloth: Color

    @property
    def male(self) -> bool:
        return self.has["Male"]

    @property
    def on_top(self) -> bool:
        """Whether hair is seen on top of the head."""
        return not (self.has["Bald"] or self.has["Wearing_Hat"])


def draw_face(attributes: np.ndarray, rng: np.random.Generator) -> "Image.Image":
    """A face with these attributes, of `WIDTH` by `HEIGHT`.

    Args:
        attributes: bool [40], in the order of `ATTRIBUTES`.
        rng: decides all else.
    """
    face = Face(rng)
    has = dict(zip(ATTRIBUTES, map(bool, attributes), strict=True))
    t = rng.uniform(0, len(_SKIN) - 1)
    skin = _color([np.interp(t, range(len(_SKIN)), _SKIN[:, c]) for c in range(3)])
    named = [color for name, color in _HAIR.items() if has[name]]
    hair = face.shade(named[0], 10) if named else face.pick(_OTHER_HAIR)
    look = _Look(has, skin, _mix(skin, 0.72), hair, _streak(hair), face.pick(_VIVID, 20))
    for part in (_hair_behind, _body, _head, _beard, _features, _mouth, _hair_in_front, _worn):
        part(face, look)
    return face.finished()


def _color(values) -> Color:
    r, g, b = np.clip(np.round(values), 0, 255).astype(int).tolist()
    return r, g, b


def _mix(color: Color, share: float, other: Color = (0, 0, 0)) -> Color:
    return _color(share * np.array(color) + (1 - share) * np.array(other))


def _streak(hair: Color) -> Color:
    """Lights in dark hair, shadows in fair hair."""
    return _mix(hair, 0.75, (255, 255, 255)) if sum(hair) < 240 else _mix(hair, 0.72)


def _hair_behind(face: Face, look: _Look) -> None:
    """The mass of hair beside the head and behind it."""
    if look.has["Bald"]:
        return
    bottom = face.rng.uniform(14, 22) if look.male else face.rng.uniform(56, 74)
    if look.has["Straight_Hair"]:
        face.oval(0, -8, 44, 44, look.hair)
        face.shape([(-44, -8), (44, -8), (47, bottom), (-47, bottom)], look.hair)
        for x in (-43, -38.5, 38.5, 43):
            face.line([(x * 0.97, -20), (x, bottom - 1)], look.streak, 1.4)
    elif look.has["Wavy_Hair"]:
        face.oval(0, -10, 43, 42, look.hair)
        for side in (-1, 1):
            ys = np.arange(-18, bottom, 12)
            waves = [(side * (46 if turn % 2 else 39), y) for turn, y in enumerate(ys)]
            for x, y in waves:
                face.oval(x, y, 12, 10, look.hair)
            for x, y in waves:
                face.line([(x + side * 6, y - 6), (x + side * 10, y), (x + side * 5, y + 6)],
                          look.streak, 1.8)  # fmt: skip
    else:
        face.oval(0, -8, 39, 40, look.hair)
        if not look.male and look.on_top:
            face.oval(0, -54, 13, 11, look.hair)  # pinned up


def _body(face: Face, look: _Look) -> None:
    neck = 21 if look.male else 13
    face.shape([(-76, 140), (-66, 76), (-30, 65), (30, 65), (66, 76), (76, 140)], look.cloth)
    if look.male:
        face.shape([(-neck, 20), (neck, 20), (neck, 66), (0, 78), (-neck, 66)], look.dark_skin)
        shirt = _mix(look.cloth, 0.25, (255, 255, 255))
        face.both([(-24, 60), (-19, 56), (0, 77), (-12, 88)], shirt)
    else:
        face.shape([(-neck, 20), (neck, 20), (neck, 66), (-neck, 66)], look.dark_skin)
        face.slice(0, 62, 38, 34, 0, 180, look.skin)
        face.shape([(-neck, 58), (neck, 58), (38, 63), (-38, 63)], look.skin)


def _head(face: Face, look: _Look) -> None:
    for side in (-1, 1):
        face.oval(side * 36, 5, 5, 9, look.skin)
        face.oval(side * 36.5, 5, 2.5, 5.5, look.dark_skin)
    if look.male:
        face.oval(0, -8, 36, 38, look.skin)
        face.shape([(-36, -8), (36, -8), (34, 28), (19, 50), (-19, 50), (-34, 28)], look.skin)
    else:
        face.oval(0, -9, 35, 37, look.skin)
        face.shape([(-35, -8), (35, -8), (29, 24), (7, 50), (-7, 50), (-29, 24)], look.skin)
        face.oval(0, 45, 9, 6, look.skin)
    if look.has["Bald"]:
        face.oval(-10, -34, 11, 5, _mix(look.skin, 0.45, (255, 255, 255)))


def _beard(face: Face, look: _Look) -> None:
    base = face.pick(tuple(_HAIR.values())) if look.has["Bald"] else look.hair
    color = _mix(base, 0.7)  # darker than the hair
    if not look.has["No_Beard"]:
        low = face.rng.uniform(53, 60)
        face.shape(
            [(-36, 2), (-30, 14), (-19, 23), (0, 25), (19, 23), (30, 14), (36, 2), (35, 30),
             (20, low), (-20, low), (-35, 30)],
            color,
        )  # fmt: skip
    if look.has["Mustache"]:
        face.both([(0, 19), (-9, 18.5), (-19, 28), (-10, 26.5), (0, 25.5)], color)


def _features(face: Face, look: _Look) -> None:
    iris = face.pick(((60, 40, 24), (60, 90, 130), (60, 100, 60)))
    brow = (40, 30, 26) if look.has["Bald"] else _mix(look.hair, 0.6)
    for side in (-1, 1):
        x = side * 16
        face.oval(x, 0, 6.5, 3.8, (250, 250, 250))
        face.oval(x, 0, 3.3, 3.5, iris)
        face.oval(x, 0, 1.5, 1.6, (8, 8, 8))
        if look.male:
            face.line([(x - 8, -9.5), (x + 8, -9.5)], brow, 4.2)
        else:
            face.line([(x - 7, -10), (x, -12.5), (x + 7, -10)], brow, 1.5)
            face.line([(x - 7, -1), (x - 3, -4), (x + 3, -4), (x + 7, -1)], (12, 10, 12), 2.2)
            face.line([(x + side * 6, -2), (x + side * 10, -5)], (12, 10, 12), 1.6)
    face.line([(-2, 3), (-5, 14), (0, 16.5), (5, 14)], look.dark_skin, 1.8)


def _mouth(face: Face, look: _Look) -> None:
    painted = look.has["Wearing_Lipstick"]
    lips = face.pick(_LIPSTICKS) if painted else _mix(look.skin, 0.72, (150, 60, 50))
    thick = 3.4 if painted else 1.5
    if look.has["Smiling"]:
        face.slice(0, 25.5, 17 + thick / 2, 14 + thick, 0, 180, lips)
        face.slice(0, 27, 15, 10.5, 2, 178, (252, 252, 250))
        face.line([(-20, 19), (-17.5, 25.5)], look.dark_skin, 1.5)
        face.line([(20, 19), (17.5, 25.5)], look.dark_skin, 1.5)
    else:
        face.oval(0, 31.5, 11, 1.2 + thick, lips)
        face.line([(-11, 32), (11, 32)], _mix(lips, 0.45), 1.3)


def _hair_in_front(face: Face, look: _Look) -> None:
    if not look.on_top:
        return
    face.slice(0, -7, 39, 41, 207, 333, look.hair)
    if look.has["Bangs"]:
        edge = [
            (x, (-13 if turn % 2 else -17) + face.rng.uniform(-1, 1))
            for turn, x in enumerate(np.linspace(-33, 33, 12))
        ]
        face.shape([(-35, -26), *edge, (35, -26), (20, -42), (-20, -42)], look.hair)
        for x in (-22, -11, 0, 11, 22):
            face.line([(x * 0.8, -38), (x, -18)], look.streak, 1.3)
    elif look.has["Wavy_Hair"]:
        for x in (-28, -10, 10, 28):
            face.oval(x, -33 - 8 * (abs(x) < 20), 11, 8, look.hair)
            face.line([(x - 6, -38), (x, -41), (x + 6, -38)], look.streak, 1.6)
    elif look.has["Straight_Hair"]:
        for x in (-24, -12, 12, 24):
            face.line([(x * 0.3, -46), (x, -30)], look.streak, 1.3)


def _worn(face: Face, look: _Look) -> None:
    has, rng = look.has, face.rng
    if has["Eyeglasses"]:
        frame = face.shade((14, 14, 18), 8)
        tinted = rng.random() < 0.4
        for side in (-1, 1):
            fill = (26, 24, 34) if tinted else None
            face.oval(side * 16, 0.5, 12.5, 10.5, fill, frame, 3.2)
            face.line([(side * 28, -2), (side * 36, -4)], frame, 2.6)
        face.line([(-4, -1), (4, -1)], frame, 3)
    if has["Wearing_Earrings"]:
        color, long = face.pick(_JEWELS, 6), rng.uniform(2, 9)
        for side in (-1, 1):
            face.line([(side * 39, 13), (side * 39, 17 + long)], color, 2.4)
            face.oval(side * 39, 18 + long, 6, 6.5, color, (60, 50, 40), 0.8)
    if has["Wearing_Necklace"]:
        color, size = face.pick(_JEWELS, 6), rng.uniform(3.2, 4.6)
        for angle in np.linspace(0.12 * np.pi, 0.88 * np.pi, 13):
            x, y = 26 * np.cos(angle), 54 + 20 * np.sin(angle)
            face.oval(x, y, size, size, color, (60, 50, 40), 0.7)
    if has["Wearing_Necktie"]:
        tie = face.pick(_VIVID[:5], 16)
        face.shape([(-7, 65), (7, 65), (5, 75), (-5, 75)], _mix(tie, 0.8))
        face.shape([(-5, 75), (5, 75), (13, 120), (-13, 120)], tie)
        for y in (82, 92, 102):
            face.line([(-6, y), (7, y - 6)], _mix(tie, 0.5, (255, 255, 255)), 2)
    if has["Wearing_Hat"]:
        color = face.pick(_VIVID, 20)
        height = rng.uniform(58, 66)
        face.shape([(-36, -24), (-32, -height), (32, -height), (36, -24)], color)
        face.shape([(-36, -24), (-35, -33), (35, -33), (36, -24)], _mix(color, 0.55))
        face.oval(0, -24, rng.uniform(46, 56), 5.5, _mix(color, 0.85))
