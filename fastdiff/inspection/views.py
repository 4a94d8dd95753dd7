"""How samples of a shape are shown. Nothing here takes a sample for a picture that does not look like one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

VIEWS = ("image", "channels", "curve", "cloud", "histogram")
FEWEST_PIXELS, FEWEST_POINTS, MOST_CURVES = 4, 8, 4


def view_of(shape: Sequence[int], asked: str | None = None) -> str:
    """The view of samples of a shape, without the batch; the one that is asked for, where it fits.

    "image": [1, H, W], [3, H, W] or [H, W]. "channels": [C, H, W], each a picture; of [C, F, H, W] the middle frame.
    "curve": [L], or up to four of them, [C, L]. "cloud": [2], a point a sample, or [N, 2]. "histogram": anything.
    Raises ValueError naming it where it does not fit.
    """
    if asked is None:
        return next(view for view in ("cloud", "curve", "image", "channels", "histogram") if _FITS[view](tuple(shape)))
    if asked not in VIEWS:
        raise ValueError(f"view: expected one of {', '.join(VIEWS)}, got {asked!r}")
    if not _FITS[asked](tuple(shape)):
        raise ValueError(f"view: {asked!r} does not fit samples of shape {list(shape)}")
    return asked


def _image(shape: tuple[int, ...]) -> bool:
    return _channels(shape) and (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)))


def _channels(shape: tuple[int, ...]) -> bool:
    return 2 <= len(shape) <= 4 and min(shape[-2:]) >= FEWEST_PIXELS


def _curve(shape: tuple[int, ...]) -> bool:
    return len(shape) in (1, 2) and shape[-1] >= FEWEST_POINTS and (len(shape) == 1 or shape[0] <= MOST_CURVES)


def _cloud(shape: tuple[int, ...]) -> bool:
    return shape == (2,) or (len(shape) == 2 and shape[1] == 2)


_FITS: dict[str, Callable[[tuple[int, ...]], bool]] = {
    "image": _image,
    "channels": _channels,
    "curve": _curve,
    "cloud": _cloud,
    "histogram": lambda shape: True,
}
