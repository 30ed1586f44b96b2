"""A folder of pictures, a folder in it for each class, as TFRecord files for the built-in network."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

KINDS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLITS = ("train", "validation", "eval")
# What people call the folders of the splits
NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "eval": "eval", "evaluation": "eval", "test": "eval", "testing": "eval",
}  # fmt: skip
QUALITY = 95
AHEAD = 64  # pictures that are decoded before they are written


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder by split, each with its label, which is the number of its class."""

    classes: tuple[str, ...]
    splits: dict[str, list[tuple[Path, int]]]
    others: tuple[Path, ...]  # files that aren't pictures, by their names


class Unfit(Exception):
    """Why a folder can't be used, in one sentence."""


def find(folder: Path, shares: Sequence[float], seed: int) -> Pictures:
    """Look through FOLDER/CLASS/… or FOLDER/SPLIT/CLASS/…; what has no split is dealt out by shares, class by class.

    Raises Unfit.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    split_of = {path: NAMES.get(path.name.lower(), "") for path in inside}
    named = [path for path in inside if split_of[path]]
    if named and len(named) != len(inside):
        other = next(path for path in inside if not split_of[path])
        raise Unfit(f"{folder} has the split {named[0].name} and the folder {other.name}: have splits only, or none.")
    roots = [(split_of[path], path) for path in named] or [("", folder)]
    found: dict[tuple[str, str], list[Path]] = {}
    others: list[Path] = []
    for split, root in roots:
        others += [path for path in root.iterdir() if path.is_file()]
        for of_class in (path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            files = sorted(path for path in of_class.rglob("*") if path.is_file())
            pictures = [path for path in files if path.suffix.lower() in KINDS]
            others += [path for path in files if path.suffix.lower() not in KINDS]
            if pictures:
                found.setdefault((split, of_class.name), []).extend(pictures)
    classes = tuple(sorted({name for _, name in found}))
    if len(classes) < 2:
        raise Unfit(
            f"{folder} has pictures of {len(classes)} classes: have a folder for each class, with its pictures "
            f"({', '.join(sorted(KINDS))}), or such folders in train, validation and test."
        )
    splits: dict[str, list[tuple[Path, int]]] = {split: [] for split in SPLITS}
    dealt = named_splits(found, classes, shares, seed)
    for split, name, path in dealt:
        splits[split].append((path, classes.index(name)))
    for split, pictures_of in splits.items():
        if not pictures_of:
            raise Unfit(f"{folder} has no pictures for the split {split}: have more of them.")
        random.Random(f"{seed} {split}").shuffle(pictures_of)  # a file of records has all classes
    return Pictures(classes, splits, tuple(others))


def named_splits(
    found: dict[tuple[str, str], list[Path]], classes: Sequence[str], shares: Sequence[float], seed: int
) -> Iterator[tuple[str, str, Path]]:
    """Yield split, class and path of each picture.

    Where only two splits are given, the second one is for the evaluation of the finished model, and train gives a share
    for the validation.
    """
    given = {split for split, _ in found}
    whole = {"validation", "eval"} <= given
    for (split, name), paths in sorted(found.items()):
        mixed = random.Random(f"{seed} {name}").sample(paths, len(paths))
        if not split:
            parts = dict(zip(SPLITS, shares, strict=True))
        elif split == "train" and not whole:
            parts = {"train": shares[0], "validation": shares[1]}
        else:
            parts = {split if whole else "eval": 1.0}
        first, before = 0, 0.0
        for part, share in parts.items():
            before += share
            last = round(len(mixed) * before / sum(parts.values()))
            yield from ((part, name, path) for path in mixed[first:last])
            first = last


def squares(
    pictures: Sequence[tuple[Path, int]], size: int, broken: Callable[[Path], object]
) -> Iterator[tuple[bytes, int]]:
    """Yield each picture as a JPEG of size x size, its middle, with its label; tells `broken` of what is no picture."""

    def decoded(path: Path) -> bytes | None:
        try:
            with Image.open(path) as picture:
                whole = ImageOps.exif_transpose(picture).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        out = BytesIO()
        ImageOps.fit(whole, (size, size), Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the GIL
        for start in range(0, len(pictures), AHEAD):
            some = pictures[start : start + AHEAD]
            for (path, label), jpeg in zip(some, pool.map(decoded, [path for path, _ in some]), strict=True):
                if jpeg is None:
                    broken(path)
                else:
                    yield jpeg, label


def counts(pictures: Pictures) -> dict[str, dict[str, int]]:
    """Return how many pictures each split has of each class."""
    return {
        split: dict(Counter(pictures.classes[label] for _, label in found)) for split, found in pictures.splits.items()
    }
