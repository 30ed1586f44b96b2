"""Files of images as arrays: decoded, upright, in the wanted colours and size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from flotilla.inference.arrays import Array

warnings.filterwarnings("ignore", module="PIL")  # of large images and odd EXIF: all are decoded, or told
THUMBNAIL = 96  # pixels, its longer side
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PLANAR, _PHOTOMETRIC, _WHITE_IS_ZERO = 284, 262, 0  # TIFF's tags PlanarConfiguration and PhotometricInterpretation
_ORIENTATION = 0x0112  # EXIF's tag, and how an image is turned by its values
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


class Broken(Exception):
    """Why a file is no image that can be used, in a few words."""


def pages(data: bytes) -> Iterator[Image.Image]:
    """Yield the images of a file: each page of a TIFF, the first one of an animation, all else as it is.

    Colours have 8 bits: of 16 the upper ones. Raises Broken, after the pages before where one of several is.
    """
    try:
        yield from _tiff_pages(data) if _in_planes(data) else _pages(data)
    except Broken:
        raise
    except UnidentifiedImageError:
        yield from _checked_tiff_pages(data)
    except Exception as error:  # Pillow's decoders raise nearly all that Python has
        raise Broken(f"it can't be decoded: {_said(error)}") from error


def _pages(data: bytes) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(data)) as picture:
        for page in ImageSequence.Iterator(picture) if picture.format == "TIFF" else [picture]:
            page.load()
            turn = _turn(page)
            upright = _eight_bits(page)
            yield upright if turn is None else upright.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Return how an image has to be turned by its EXIF; what can't be read there counts as nothing.

    Pillow's own function writes the whole EXIF anew, and fails where something in it is wrong.
    """
    try:
        return _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # of whatever is in it
        return None


def _checked_tiff_pages(data: bytes) -> Iterator[Image.Image]:
    try:
        yield from _tiff_pages(data)
    except Broken:
        raise
    except Exception as error:  # as with Pillow
        raise Broken(f"it can't be decoded: {_said(error)}") from error


def _in_planes(data: bytes) -> bool:
    """Whether a TIFF has a plane a colour: of 16 bits each, Pillow 12.3 makes wrong pixels of them without a word."""
    if data[:4] not in _TIFF:
        return False
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return bool(getattr(picture, "tag_v2", {}).get(_PLANAR) == 2)
    except Exception:  # told where it is decoded
        return False


def _said(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tiff_pages(data: bytes) -> Iterator[Image.Image]:
    """Yield the pages of what Pillow doesn't know: TIFF with 16 bits a colour, or packed in another manner."""
    if data[:4] not in _TIFF:
        raise Broken("it is empty" if not data else "it is no image, or of a kind that isn't known")
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if not len(file.pages):
            raise Broken("it has no page")
        for page in file.pages:
            picture = _from_array(page.asarray())
            yield ImageOps.invert(picture) if page.photometric == _WHITE_IS_ZERO and picture.mode == "L" else picture


def _from_array(pixels: Array) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
        pixels = np.moveaxis(pixels, 0, 2)  # a plane a colour
    if pixels.dtype.kind not in "ui" or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise Broken(f"its pixels are {pixels.dtype} {list(pixels.shape)}, which is neither grey nor RGB")
    bits = pixels.dtype.itemsize * 8
    return Image.fromarray(np.right_shift(pixels.astype(np.int64), max(0, bits - 8)).astype(np.uint8))


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode not in _DEEP:
        return picture.copy()  # of a page that the next one replaces
    pixels = np.asarray(picture).astype(np.float64)
    if picture.mode == "F":  # of any range
        low, high = float(pixels.min()), float(pixels.max())
        scaled = (pixels - low) * (255 / (high - low or 1))
    else:
        scaled = np.floor(pixels / 256)
    grey = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    white_is_zero = getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return ImageOps.invert(grey) if white_is_zero else grey


def to_array(picture: Image.Image, height: int | None, width: int | None, channels: int) -> NDArray[np.uint8]:
    """Return an image as uint8 [height, width, channels], resized to a size where one is given."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if picture.mode == "P" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("RGBA", "LA") and channels != 4:  # what is transparent is white, as on a page
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    picture = picture.convert(mode)
    if height and width and picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.asarray(picture, np.uint8)
    return pixels[:, :, None] if channels == 1 else pixels


def thumbnail(picture: Image.Image) -> bytes:
    """Return a small JPEG of an image."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()
