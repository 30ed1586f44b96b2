"""Files of images as arrays: decoded, upright, in the wanted colours and size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from flotilla.inference.arrays import Array

THUMBNAIL = 96  # pixels, its longer side
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PLANAR = 284  # TIFF's tag PlanarConfiguration
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


class Broken(Exception):
    """Why a file is no image that can be used, in a few words."""


def pages(data: bytes) -> Iterator[Image.Image]:
    """Yield the images of a file: each page of a TIFF, the first one of an animation, all else as it is.

    Colours have 8 bits: of 16 the upper ones. Raises Broken.
    """
    if _in_planes(data):
        yield from _tiff_pages(data)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                every = ImageSequence.Iterator(picture) if picture.format == "TIFF" else [picture]
                for page in every:
                    page.load()
                    yield ImageOps.exif_transpose(_eight_bits(page))
        return
    except UnidentifiedImageError:
        pass
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise Broken(f"it can't be decoded: {_said(error)}") from error
    yield from _tiff_pages(data)


def _in_planes(data: bytes) -> bool:
    """Whether a TIFF has a plane a colour: of 16 bits each, Pillow 12.3 makes wrong pixels of them without a word."""
    if data[:4] not in _TIFF:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                return bool(getattr(picture, "tag_v2", {}).get(_PLANAR) == 2)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _said(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _tiff_pages(data: bytes) -> Iterator[Image.Image]:
    """Yield the pages of what Pillow doesn't know: TIFF with 16 bits a colour, or packed in another manner."""
    if data[:4] not in _TIFF:
        raise Broken("it is empty" if not data else "it is no image, or of a kind that isn't known")
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if not len(file.pages):
                raise Broken("it has no page")
            for page in file.pages:
                yield _from_array(page.asarray())
    except (ValueError, TypeError, KeyError, OSError, tifffile.TiffFileError, RuntimeError) as error:
        raise Broken(f"it can't be decoded: {_said(error)}") from error


def _from_array(pixels: Array) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
        pixels = np.moveaxis(pixels, 0, 2)  # a plane a colour
    if pixels.dtype.kind not in "ui" or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise Broken(f"its pixels are {pixels.dtype} {list(pixels.shape)}, which is neither grey nor RGB")
    bits = pixels.dtype.itemsize * 8
    return Image.fromarray(np.right_shift(pixels.astype(np.int64), max(0, bits - 8)).astype(np.uint8))


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode not in _DEEP:
        return picture
    pixels = np.asarray(picture).astype(np.float64)
    if picture.mode == "F":  # of any range
        low, high = float(pixels.min()), float(pixels.max())
        scaled = (pixels - low) * (255 / (high - low or 1))
    else:
        scaled = np.floor(pixels / 256)
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))


def to_array(picture: Image.Image, height: int | None, width: int | None, channels: int) -> NDArray[np.uint8]:
    """Return an image as uint8 [height, width, channels], resized to a size where one is given."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    if picture.mode == "P":  # with its palette's transparency, if it has any
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
