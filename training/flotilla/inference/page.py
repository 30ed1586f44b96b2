"""The page that shows what came of an inference: one file of HTML, with its pictures in it."""

from __future__ import annotations

import base64
import contextlib
import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from PIL import Image

from flotilla.inference import inputs, part, pictures
from flotilla.inference.inputs import Found, Part
from flotilla.inference.part import Sample, Summary

NAME = "index.html"
MOST_BYTES = 500_000_000  # of files that are read again for the pictures
MOST_CLASSES = 50  # of a confusion matrix

_RIGHT, _WRONG = "46,125,50", "198,40,40"  # red, green, blue
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .6rem; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #4a7ebb; height: .7rem; min-width: 1px }
figure { display: inline-block; margin: 0 1rem 1rem 0; width: 9rem; vertical-align: top; font-size: .8rem }
figure img { height: 6rem; image-rendering: pixelated; max-width: 9rem; object-fit: contain }
figcaption { overflow-wrap: anywhere } .matrix td { text-align: right; font-size: .8rem; padding: .2rem .4rem }
"""


class _Chosen(Part):
    """A file, of which some records or rows are wanted."""

    wanted: set[int | None]

    def has(self, record: int) -> bool:
        """Whether a record or row is one of them."""
        return record in self.wanted


def draw(url: str, found: Found, samples: Sequence[Sample], apart: bool) -> None:
    """Give the inputs that are shown their pictures, where they are images: their files alone are read again.

    No task does it, for which of its inputs will be shown isn't known before the end. `apart` does it in a process of
    its own, which takes along what reading and decoding needs.
    """
    if not apart:
        pictures_of = _read(url, found, samples)
    else:
        pictures_of = [""] * len(samples)
        with contextlib.suppress(BrokenProcessPool), ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pictures_of = pool.submit(_read, url, found, samples).result()
    for one, picture in zip(samples, pictures_of, strict=True):
        one["picture"] = picture


def _read(url: str, found: Found, samples: Sequence[Sample]) -> list[str]:
    """Return the picture of each; empty where the input is no image, or files of MOST_BYTES were read before it."""
    source, listed, left = inputs.open_source(url), {one.path: one for one in found.objects}, MOST_BYTES
    for path in dict.fromkeys(one["path"] for one in samples):
        left -= listed[path].size
        if left < 0:
            break
        some = [one for one in samples if one["path"] == path]
        chosen = _Chosen(0, (listed[path],))
        chosen.wanted = {one["record"] for one in some}
        with contextlib.suppress(Exception):  # it may be gone by now
            for item in itertools.islice(inputs.items(source, found.kind, chosen), len(chosen.wanted)):
                for one in some:
                    if one["record"] == item.record:
                        _draw(one, part.images(item, found.features))
    return [one["picture"] for one in samples]


def _draw(one: Sample, images: Iterator[Image.Image]) -> None:
    with contextlib.suppress(Exception):  # it may be no image
        picture = pictures.thumbnail(next(itertools.islice(images, one["page"] or 0, None)))
        one["picture"] = base64.b64encode(picture).decode()


def render(manifest: Mapping[str, object], whole: Summary, labels: Sequence[str]) -> str:
    """Return the page; labels are the classes' names, from class 0 on, or none."""
    model, source = manifest["model"], manifest["source"]
    assert isinstance(model, dict)
    assert isinstance(source, dict)
    facts = [
        ("Model", model["url"]),
        ("Source", f"{source['url']}, {source['files']:,} {source['kind']}"),
        ("Inputs", f"{whole['rows']:,}, of which {whole['broken']:,} couldn't be classified"),
        ("Made", f"{manifest['created']}, in {manifest['seconds']} s"),
    ]
    if whole["strange"]:
        said = f"unknown: {whole['strange']:,} labels are no numbers of classes, which are counted from 0"
        facts.append(("Accuracy", said))
    elif whole["labelled"]:
        share = whole["right"] / whole["labelled"]
        facts.append(("Accuracy", f"{share:.4f} ({whole['right']:,} of {whole['labelled']:,} with a label)"))
    if manifest["scale"]:
        facts.append(("Pixels", f"given to the model as {manifest['scale']} (infer_scale)"))
    gives = manifest["model_gives"]
    assert isinstance(gives, dict)
    if gives["meaning"] == "logits":
        facts.append(("Scores", f"the softmax of the model's output {gives['output']}"))
    body = [
        "<h1>Predictions</h1>",
        "<table>", *(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts), "</table>",
        *_classes(whole), *_matrix(whole, labels),
        *_samples("The surest", whole["surest"]), *_samples("The least sure", whole["least_sure"]), *_errors(whole),
    ]  # fmt: skip
    head = f"<!doctype html><meta charset=utf-8><title>Predictions</title><style>{_STYLE}</style>"
    return "\n".join([head, *body, ""])


def _text(value: object) -> str:
    return html.escape(str(value))


def _classes(whole: Summary) -> list[str]:
    if not whole["classes"]:
        return []
    most = max(whole["classes"].values())
    rows = [
        f"<tr><td>{_text(name)}</td><td class=n>{count:,}</td>"
        f'<td style="width: 20rem"><div class=bar style="width: {100 * count / most:.1f}%"></div></td></tr>'
        for name, count in sorted(whole["classes"].items(), key=lambda one: (-one[1], one[0]))[:200]
    ]
    return ["<h2>Classes</h2>", "<table>", *rows, "</table>"]


def _matrix(whole: Summary, labels: Sequence[str]) -> list[str]:
    """Return the confusion matrix, a row a label and a column a predicted class; each row's colours by its own sum."""
    if not whole["confusion"]:
        return []
    counts = {tuple(map(int, pair.split())): count for pair, count in whole["confusion"].items()}
    numbers = sorted({number for pair in counts for number in pair})
    if len(numbers) > MOST_CLASSES:
        return [f"<p>Too many classes for a confusion matrix here: {len(numbers)}.</p>"]

    def name(number: int) -> str:
        return _text(labels[number] if number < len(labels) else number)

    lines = [f"<tr><th></th>{''.join(f'<th class=n>{name(number)}</th>' for number in numbers)}</tr>"]
    for label in numbers:
        row = [counts.get((label, number), 0) for number in numbers]
        cells = "".join(
            f'<td style="background: rgba({_RIGHT if number == label else _WRONG},{count / (sum(row) or 1):.3f})">'
            f"{count or ''}</td>"
            for number, count in zip(numbers, row, strict=True)
        )
        lines.append(f"<tr><th>{name(label)}</th>{cells}</tr>")
    return [
        "<h2>Confusion: a row for each label, a column for each class</h2>",
        "<table class=matrix>",
        *lines,
        "</table>",
    ]


def _samples(title: str, samples: Sequence[Sample]) -> list[str]:
    figures = []
    for one in samples:
        picture = f'<img alt="" src="data:image/jpeg;base64,{one["picture"]}">' if one["picture"] else ""
        label = f" (label {_text(one['label'])})" if one["label"] else ""
        figures.append(
            f"<figure>{picture}<figcaption><b>{_text(one['name'])}</b> {one['score']:.3f}{label}<br>"
            f"{_text(_place(one['path'], one['page'], one['record']))}</figcaption></figure>"
        )
    return [f"<h2>{title}</h2>", *figures] if figures else []


def _errors(whole: Summary) -> list[str]:
    if not whole["errors"]:
        return []
    rows = [
        f"<tr><td>{_text(_place(one['path'], one['page'], one['record']))}</td><td>{_text(one['error'])}</td></tr>"
        for one in whole["errors"]
    ]
    more = whole["broken"] - len(rows)
    after = [f"<p>And {more:,} more, in the files of the predictions.</p>"] if more > 0 else []
    return ["<h2>Not classified</h2>", "<table>", *rows, "</table>", *after]


def _place(path: str, number: int | None, record: int | None) -> str:
    more = f", page {number}" if number is not None else f", number {record}" if record is not None else ""
    return path + more
