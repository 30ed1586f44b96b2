"""Tables as people have them: how they are read, what is judged of their columns, and the numbers they become."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flotilla.job.errors import BadInput
from flotilla.sweep import columns, numbers, table
from flotilla.sweep.columns import Column, Judged, judge, says
from flotilla.sweep.numbers import Prepared, apply, prepare
from flotilla.sweep.table import Table, read

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "t.csv") -> Path:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


@pytest.fixture
def given(write: Write) -> Callable[..., Table]:
    return lambda content, name="t.csv": read(write(content, name))


@pytest.fixture
def judged(given: Callable[..., Table]) -> Callable[..., Judged]:
    return lambda content, label="y", **more: judge(given(content), label, **more)


def rows(read: Table) -> list[tuple[str, ...]]:
    return [row for frame in read.batches() for row in frame.rows()]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as raised:
        call()
    said = str(raised.value)
    assert said.endswith((".", "?", ")")) and "\n" not in said
    return said


def flowers(count: int = 60, separator: str = ",", extra: str = "") -> str:
    """A table of two numbers, a category and a label of three classes that none of these tells alone."""
    lines = [separator.join(["long", "wide", "colour", "y"])]
    for n in range(count):
        of = "abc"[n % 3]
        long, wide = f"{(n * 37 % 100) / 10}", f"{(n * 53 % 90) / 100 + (n % 3)}"
        lines.append(separator.join([long, wide, ["red", "green", "blue"][n * 7 % 11 % 3], of]))
    return "\n".join(lines) + "\n" + extra


# Reading


@pytest.mark.parametrize(("mark", "text"), [(",", "a,b"), (";", "a;b"), ("\t", "a\tb"), ("|", "a|b")])
def test_separator_is_found(given: Callable[..., Table], mark: str, text: str) -> None:
    found = given(f"{text}\n1{mark}x\n2{mark}y\n")
    assert (found.separator, found.columns, rows(found)) == (mark, ("a", "b"), [("1", "x"), ("2", "y")])


def test_commas_in_values_separate_nothing(given: Callable[..., Table]) -> None:
    found = given('a;b;y\n1,5;2,25;"x; y"\n2,5;3,25;"z, z"\n')
    assert (found.separator, found.style) == (";", ",")
    assert rows(found) == [("1,5", "2,25", "x; y"), ("2,5", "3,25", "z, z")]
    assert "decimal commas" in found.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa,b\n1,x\n2,y\n",  # a mark
        "a,b\r\n1,x\r\n2,y\r\n",
        "a,b\r1,x\r2,y\r",  # of old Macs
        "a,b\n\n1,x\n  \n,\n2,y\n\n\n",  # blank lines
        "# of us\n#\n\na,b\n1,x\n2,y",
        "# a,b\n1,x\n2,y\n",  # numpy.savetxt's names
        "#a,b\n1,x\n2,y\n",
        "sep=,\na,b\n1,x\n2,y\n",  # Excel's
        "a,b,\n1,x,\n2,y,\n",
        "a,b\n1,x,\n2,y,\n",
        "a, b\n 1, x\n2 ,y \n",
        'a, "b"\n1, "x"\n2, y\n',
    ],
)
def test_people_write_the_same_in_many_ways(given: Callable[..., Table], text: str) -> None:
    found = given(text)
    assert found.columns[:2] == ("a", "b") and found.rows == 2
    assert [row[:2] for row in rows(found)] == [("1", "x"), ("2", "y")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8", "utf-8-sig", "cp1252", "utf-32"])
def test_encodings(given: Callable[..., Table], encoding: str) -> None:
    found = given("größe,y\n1,é\n2,ü\n".encode(encoding))
    assert found.columns == ("größe", "y") and rows(found) == [("1", "é"), ("2", "ü")]
    assert any("Windows-1252" in note for note in found.notes) == (encoding == "cp1252")


def test_packed(given: Callable[..., Table]) -> None:
    assert rows(given(gzip.compress("a,y\n1,é\n".encode("latin-1")), "t.csv.gz")) == [("1", "é")]
    assert "can't be unpacked" in refused(lambda: given(gzip.compress(b"a,y\n" + b"1,2\n" * 9)[:-9], "t.csv.gz"))


def test_quotes(given: Callable[..., Table]) -> None:
    found = given('a,b\n1,"x\n\ny"\n2,"say ""no"", or"\n3,5" disk\n4,6" disk\n')
    assert rows(found) == [("1", "x\n\ny"), ("2", 'say "no", or'), ("3", '5" disk'), ("4", '6" disk')]
    assert [found.place(row) for row in range(4)] == ["line 2", "line 5", "line 6", "line 7"]


def test_parquet_is_read_as_text(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"a": [1, None], "b": [0.5, float("nan")], "c": [True, False], "d": [[1], [2]], "e": ["x", None]}
    )
    frame.write_parquet(tmp_path / "t.dat")
    found = read(tmp_path / "t.dat")
    assert rows(found) == [("1", "0.5", "true", "x"), ("", "NaN", "false", "")]
    assert "as d" in found.notes[0]
    assert found.place(1) == "row 2"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is no table but a picture"),
        (b"PK\x03\x04\0\0", "an Excel workbook or another ZIP archive: save the sheet as CSV"),
        (b"<!DOCTYPE html>\n", "a page of the web"),
        (b'{"a": 1}\n', "JSON"),
        ("a,b\n1,2\n".encode("utf-16-le"), "zero bytes"),
        (b"a,b\n1,\xc3\xa4\n2,\xe4\n", "its line 3 isn't"),
        (b"a,b\n1,\x81\n", "save it as CSV in UTF-8"),
        ("1,2,3\n4,5,7\n", "has values"),
        ("5.1,3.5,1.4,0.2,Iris-setosa\n4.9,3.0,1.4,0.2,Iris-setosa\n", "has values (5.1, 3.5, 1.4, 0.2) where"),
        ("506,3,,\nCRIM,ZN,Y,Z\n1,2,3,4\n", "has values (506, 3"),
        ("a,b\n", "no rows"),
        ("# nothing\n", "no rows"),
        ("a,b,a\n1,2,3\n", "the same name, a"),
        ("a,b\n1,2\n3\n4,5\n6\n", "its line 3 has 1 value (one of 2 such lines)"),
        ("a,b\n1,2\n3,4,5\n", "its line 3 has 3 values"),
        ("a,b\n1,2,3\n3,4,5\n", "names for 2 columns, but its line 2 has 3 values, and no row fits"),
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3 (a quote opens a value there that nothing closes)"),
        ('a,b\n1,2\n3,"4"x\n5,6\n', "line 3"),
        ("a b y\n1 2 3\n4 5 6\n", "separated by blanks"),
        (b"x" * 2**20, "line of more than"),
    ],
)
def test_no_table(given: Callable[..., Table], content: str | bytes, said: str) -> None:
    assert said in refused(lambda: given(content))


def test_names(given: Callable[..., Table]) -> None:
    assert given("a,,column-2\n1,2,3\n").columns == ("a", "column-2-2", "column-2")
    assert given("country,1990,1991,1992\nx,2,3,4\n").columns[1:] == ("1990", "1991", "1992")
    assert given("0,1,2,3\n5,7,9,8\n").columns == ("0", "1", "2", "3")  # pandas' own


def test_no_parquet(given: Callable[..., Table], tmp_path: Path) -> None:
    assert "no whole Parquet file" in refused(lambda: given("a,b\n1,2\n", "t.parquet"))
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.pq")
    whole = (tmp_path / "t.pq").read_bytes()
    assert "no whole Parquet file" in refused(lambda: given(whole[:-20], "t.pq"))
    assert "can't be read as a Parquet file" in refused(lambda: given(whole[:4] + b"x" * 50 + whole[-4:], "t.pq"))


def test_many_blocks(given: Callable[..., Table], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CELLS", 20)
    found = given("a,b\n" + "".join(f"{n},x\n" + "\n" * (n % 4 == 0) for n in range(100)))
    assert len(found.blocks) > 10 and [row[0] for row in rows(found)] == [str(n) for n in range(100)]
    assert (found.place(0), found.place(1), found.place(50)) == ("line 2", "line 4", f"line {2 + 50 + 13}")


def test_whatever_is_written_is_read(write: Write) -> None:
    draw = random.Random(1)
    pieces = ["a", "B", '"', "'", ",", ";", "\t", "|", "\n", "\r\n", " ", "é", "1", ".", "#", '""', ', "', "\\"]
    for _round in range(100):
        wide, out = draw.randint(2, 5), io.StringIO(newline="")
        cells = [["".join(draw.choices(pieces, k=draw.randint(0, 5))) for _n in range(wide)] for _row in range(9)]
        writer = csv.writer(
            out,
            delimiter=draw.choice(",;\t|"),
            lineterminator=draw.choice(["\n", "\r\n"]),
            quoting=draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        )
        writer.writerows([[f"c{n}" for n in range(wide)], *cells, ["end"] * wide])
        stripped = [tuple(cell.strip() for cell in row) for row in [*cells, ["end"] * wide]]
        assert rows(read(write(out.getvalue()))) == [row for row in stripped if any(row)]


# Judging


def column(found: Judged, name: str) -> Column:
    return next(one for one in found.columns if one.name == name)


def test_kinds(judged: Callable[..., Judged]) -> None:
    lines = ["n,w,c,t,day,one,none,id,y"]
    for n in range(200):
        lines.append(
            f"{n * 7 % 50 / 4},{n % 9},{'pqr'[n * n % 3]},text {n},2026-{n % 12 + 1:02}-01,5,?,{n},{n * n % 5 % 2}"
        )
    found = judged("\n".join(lines))
    assert [(one.name, one.kind, one.used) for one in found.columns] == [
        ("n", "number", True), ("w", "whole number", True), ("c", "category", True), ("t", "text", False),
        ("day", "date or time", False), ("one", "constant", False), ("none", "nothing", False),
        ("id", "whole number", False),
    ]  # fmt: skip
    n, c = column(found, "n"), column(found, "c")
    assert (n.least, n.most, n.distinct, n.missing) == (0, 12.25, 50, 0)
    assert c.values == {"p": 67, "q": 133}
    assert column(found, "none").missing == 200
    assert "columns: {id: number} keeps it" in column(found, "id").notes[0]
    assert column(judged("\n".join(lines), ways={"id": "number", "n": "out"}), "id").used


def test_missing_values(judged: Callable[..., Judged]) -> None:
    marks = ["", "?", "NA", "N/A", "nan", "NaN", "null", "NULL", "None", "-", "  "]
    found = judged("n,c,y\n" + "".join(f"{mark},{mark},a\n{n},k{n % 2},b\n" for n, mark in enumerate(marks)))
    assert (column(found, "n").missing, column(found, "c").missing) == (11, 11)
    assert (column(found, "n").kind, column(found, "c").values) == ("whole number", {"k0": 6, "k1": 5})


def test_marks_in_the_label(judged: Callable[..., Judged]) -> None:
    texts = judged("a,y\n" + "".join(f"{n * n % 7},{('None', 'some', '')[n % 3]}\n" for n in range(30)))
    assert (dict(texts.label.classes), texts.label.missing) == ({"None": 10, "some": 10}, 10)
    assert "'None' is taken for a class" in texts.label.notes[1]
    whole = judged("a,y\n" + "".join(f"{n * n % 7},{('NA', '1', '0', '1.0')[n % 4]}\n" for n in range(40)))
    assert (dict(whole.label.classes), whole.label.missing) == ({"0": 10, "1": 20}, 10)


@pytest.mark.parametrize(
    ("values", "style", "numbers"),
    [
        (["1,234", "12,345", "7"], ".", [1234, 12345, 7]),
        (["1,234", "12,5", "7"], ",", [1.234, 12.5, 7]),
        (["1.234,5", "2.000", "7"], ",", [1234.5, 2000, 7]),
        (["1,234.5", "-2,000", "+7"], ".", [1234.5, -2000, 7]),
        (["1.234", "2.5", "1e3"], ".", [1.234, 2.5, 1000]),
    ],
)
def test_numbers_are_judged_by_the_whole_column(
    given: Callable[..., Table], values: list[str], style: str, numbers: list[float]
) -> None:
    found = judge(given("a\tb\ty\n" + "".join(f"{one}\t{n % 3}\tk{n % 2}\n" for n, one in enumerate(values * 5))), "y")
    a = column(found, "a")
    assert (a.style, a.kind in ("number", "whole number")) == (style, True)
    parsed = [columns.parse(frame, {"a": style}) for frame in found.table.batches(["a"])]
    np.testing.assert_allclose(np.concatenate(parsed)[:3, 0], numbers)


def test_a_type_that_changes_late(judged: Callable[..., Judged]) -> None:
    lines = [f"{n * 31 % 97},{n * n % 5 % 2}" for n in range(3000)]
    few = judged("a,y\n" + "\n".join([*lines, "oops,1", "inf,0", "", "-1e400,1"]))
    a = column(few, "a")
    assert (a.kind, a.missing, a.used) == ("whole number", 3, True)
    assert "'oops' in line 3002" in a.notes[1] and "'inf' in line 3003" in a.notes[1]
    assert "2 infinite values" in a.notes[0]
    lines = [f"{n * n % 7},{line}" for n, line in enumerate(lines)]
    many = column(judged("b,a,y\n" + "\n".join(lines + [f"1,code{n % 9},1" for n in range(900)])), "a")
    assert (many.kind, many.used, many.more) == ("category", False, False)


def test_too_many_categories(judged: Callable[..., Judged]) -> None:
    content = "a,b,y\n" + "".join(f"k{n % 120},{n * n % 7},{n * n % 5 % 2}\n" for n in range(600))
    a = column(judged(content), "a")
    assert not a.used and "more than 100 different texts" in a.notes[0] and a.distinct == 120
    assert len(column(judged(content, most_categories=200), "a").values) == 120


def test_bounded_distinct(judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_HASHES", 1000)
    found = judged("a,i,y\n" + "".join(f"{n / 7:.5f},{n},{n * n % 5 % 2}\n" for n in range(5000)))
    assert column(found, "a").more and not column(found, "i").used


def test_leaks(judged: Callable[..., Judged]) -> None:
    lines = ["fine,same,code,score,many,y"]
    for n in range(300):
        yes = n * n % 7 % 2
        lines.append(f"{n * 37 % 101},{yes},{'ab'[yes]},{yes * 50 + n % 40},{'pq'[n % 2]}{yes},{('no', 'yes')[yes]}")
    found = judged("\n".join(lines))
    told = {one.name: one.notes[-1] for one in found.columns if one.notes}
    assert told.keys() == {"same", "code", "score", "many"} and all(one.used for one in found.columns)
    assert "its value alone tells the class in 300 rows" in told["score"]
    assert "each of its values is one of the label's" in told["code"]
    numbers = [
        f"{n * 37 % 101 / 3},{n * 37 % 101 / 3 * 1.8 + 32},{(n * 37 % 101) ** 3},{n * 53 % 97}" for n in range(300)
    ]
    told = {one.name for one in judged("\n".join(["y,line,cube,fine", *numbers])).columns if one.notes}
    assert told == {"line", "cube"}


def test_chance_is_no_leak(judged: Callable[..., Judged]) -> None:
    draw = np.random.default_rng(3)
    lines = [",".join([*(f"x{n}" for n in range(300)), "y"])]
    lines += [",".join([*map(str, draw.integers(0, 3, 300)), "ab"[n > 9]]) for n in range(12)]
    assert not [one for one in judged("\n".join(lines)).columns if "alone" in "".join(one.notes)]


def test_the_labels_task(judged: Callable[..., Judged]) -> None:
    content = "a,y\n" + "".join(f"{n * n % 7},{n % 30}\n" for n in range(90))
    assert judged(content).label.task == "regression"
    assert len(judged(content, task="classification").label.classes) == 30
    halves = judged("a,y\n" + "".join(f"{n * n % 7},{n % 3 / 2}\n" for n in range(90)))
    assert (halves.label.task, halves.label.least, halves.label.most) == ("regression", 0, 1)
    assert judged("a,y\n" + "".join(f"{n * n % 7},{n % 3}\n" for n in range(90)), task="regression").label.classes == {}
    order = judged("a,y\n" + "".join(f"{n * n % 7},{n % 12}\n" for n in range(90))).label
    assert list(order.classes) == [str(n) for n in range(12)]


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        (flowers(), {"label": "Colur"}, "has no column 'Colur' (label): do you mean 'colour'?"),
        (flowers(), {"label": "zzz"}, "it has long, wide, colour, y"),
        (flowers(), {"ways": {"wid": "out"}}, "do you mean 'wide'?"),
        (flowers(), {"ways": {"wide": "float"}}, "say number, category or out"),
        (flowers(), {"ways": {"colour": "number"}}, "say category, or out"),
        (flowers(), {"task": "regression"}, "y has texts, as 'a' in line 2"),
        ("a,y\n" + "1,x\n2,x\n" * 9, {}, "one class alone, x"),
        ("a,y\n" + "1,5.5\n2,5.5\n" * 9, {}, "y is 5.5 in all rows"),
        ("a,y\n" + "1,\n2,\n" * 9, {}, "no value at all"),
        ("a,y\n1,x\n2,z\n", {}, "2 rows with a value of y"),
        ("a,y\n" + "1,x\n1,z\n" * 9, {}, "a is left out: it is 1 in all rows"),
        ("y\n" + "x\nz\n" * 9, {}, "it is the only one"),
        ("a,y\n" + "".join(f"{n % 5},name {n}\n" for n in range(50)), {}, "another class in each row"),
    ],
)
def test_what_cant_be_judged(judged: Callable[..., Judged], content: str, more: dict[str, object], said: str) -> None:
    assert said in refused(lambda: judged(content, **more))


def test_says(judged: Callable[..., Judged]) -> None:
    found = judged(flowers(extra="1,2,red,\n3,4,blue,d\n"))
    lines = says(found)
    assert lines[0] == "t.csv: 62 rows, 4 columns, separated by commas"
    assert lines[1] == "To predict: y, 4 classes: a 20, b 20, c 20, d 1"
    assert "left out: 1 row without it" in lines[2] and "never tested: d" in lines[3]
    assert lines[5].split() == ["long", "number", "61", "0", "to", "9.9"] or "long" in lines[5]
    assert lines[-1].startswith("3 of 3 columns are used: 5 numbers a row")


# Preparing


@pytest.fixture
def prepared(judged: Callable[..., Judged]) -> Prepared:
    return prepare(judged(flowers(600)))


def test_split(prepared: Prepared, judged: Callable[..., Judged], tmp_path: Path) -> None:
    assert (len(prepared.training), len(prepared.held_out)) == (480, 120)
    assert np.bincount(prepared.held_out_labels).tolist() == [40, 40, 40]
    both = [*prepared.training_rows, *prepared.held_out_rows]
    assert sorted(both) == list(range(600))
    again, other = prepare(judge(read(tmp_path / "t.csv"), "y")), prepare(judge(read(tmp_path / "t.csv"), "y"), seed=1)
    np.testing.assert_array_equal(again.training, prepared.training)
    assert not np.array_equal(other.held_out_rows, prepared.held_out_rows)
    most = prepare(judged(flowers(30, extra="1,2,red,d\n2,2,blue,d\n")), split=0.9)
    assert set(most.training_labels) == {0, 1, 2, 3} and len(most.held_out) > 20


def test_a_single_row_is_trained_on(judged: Callable[..., Judged]) -> None:
    for seed in range(5):
        found = prepare(judged(flowers(31, extra="1,2,red,only\n")), seed=seed)
        assert found.description["label"]["classes"] == ["a", "b", "c", "only"]
        assert 3 in found.training_labels and 3 not in found.held_out_labels


def test_scaled_by_the_training_rows_alone(judged: Callable[..., Judged]) -> None:
    found = prepare(judged("a,b,y\n" + "".join(f"{n * n},{n % 3},{n % 2}\n" for n in range(50))))
    assert found.training[:, 0].min() == 0 and found.training[:, 0].max() == 1
    a = found.description["columns"][0]
    rows = found.held_out_rows.astype(float) ** 2
    np.testing.assert_allclose(found.held_out[:, 0], (rows - a["least"]) / (a["most"] - a["least"]), rtol=1e-6)
    outside = next(
        one
        for seed in range(20)
        if (one := prepare(judged("a,y\n" + "".join(f"{n**3},{n % 2}\n" for n in range(50))), seed)).held_out.max() > 1
    )
    assert outside.training.max() == 1  # what is held out isn't clipped


def test_missing_and_categories(judged: Callable[..., Judged]) -> None:
    lines = [f"{'' if n % 9 == 4 else n % 10},{n % 4},{('u', 'v', 'NA')[n % 3]},{n * n % 5 % 2}" for n in range(90)]
    found = prepare(judged("\n".join(["a,b,c,y", *lines])))
    assert found.description["features"] == ["a", "a is missing", "b", "c = u", "c = v", "c is missing"]
    lacking = np.array([n % 9 == 4 for n in found.training_rows])
    np.testing.assert_array_equal(found.training[:, 1], lacking)
    a = found.description["columns"][0]
    median = np.median([n % 10 for n in found.training_rows if n % 9 != 4])
    assert a["median"] == pytest.approx(median)
    np.testing.assert_allclose(found.training[lacking, 0], median / 9, rtol=1e-6)
    np.testing.assert_array_equal(found.training[:, 3:].sum(axis=1), 1)
    assert np.isfinite(found.training).all() and np.isfinite(found.held_out).all()


def test_regression(judged: Callable[..., Judged]) -> None:
    found = prepare(judged("a,y\n" + "".join(f"{n * n % 11},{n * 1.5}\n" for n in range(100)) + "3,\n4,inf\n"))
    label = found.description["label"]
    assert found.training_labels.dtype == np.float32 and len(found.training_labels) + len(found.held_out_labels) == 100
    assert float(found.training_labels.mean()) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(
        found.held_out_labels * label["std"] + label["mean"], found.held_out_rows * 1.5, rtol=1e-5, atol=1e-4
    )


def test_apply_gives_the_same_numbers(judged: Callable[..., Judged], write: Write) -> None:
    lines = [
        f"{'' if n % 9 == 4 else 1700000000 + n * n},{n / 7:.3f},{'uvw'[n % 3]},k{n * n % 5 % 2}" for n in range(90)
    ]
    found = prepare(judged("\n".join(["a,b,c,y", *lines])))
    description = json.loads(json.dumps(found.description))
    same = apply(description, write("\n".join(["a,b,c,y", *lines]), "again.csv"))
    np.testing.assert_array_equal(same[found.training_rows], found.training)
    np.testing.assert_array_equal(same[found.held_out_rows], found.held_out)
    new = apply(description, write("c\tb\ta\textra\nnew\t1\t\tx\n?\toops\t1700000004\t\n", "new.tsv"))
    names = description["features"]
    assert names == ["a", "a is missing", "b", "c = u", "c = v", "c = w"]
    assert new[0, 1:].tolist()[0] == 1 and new[:, 3:].sum() == 0 and np.isfinite(new).all()
    assert "do you mean 'bb'?" in refused(lambda: apply(description, write("a,bb,c\n1,2,u\n")))
    strange = "a,b,c\n" + "1700000000,much,u\n" * 9
    assert "9 values in b that are no numbers" in refused(lambda: apply(description, write(strange)))
    assert "another Flotilla" in refused(lambda: apply({**description, "format": "x"}, write(strange)))


def test_apply_of_one_column(judged: Callable[..., Judged], write: Write) -> None:
    found = prepare(judged("a,y\n" + "".join(f"{n * n % 11},{n % 2}\n" for n in range(50))))
    np.testing.assert_array_equal(
        apply(found.description, write("a\n10\n5\n0\n"))[:, 0], np.float32([10 / 9, 5 / 9, 0])
    )


def test_parquet_and_csv_become_the_same(given: Callable[..., Table], tmp_path: Path) -> None:
    content = flowers(300).replace("\n0.0,", "\n,")
    frame = pl.read_csv(content.encode())
    frame.write_parquet(tmp_path / "t.parquet")
    a, b = prepare(judge(given(content), "y")), prepare(judge(read(tmp_path / "t.parquet"), "y"))
    np.testing.assert_array_equal(a.training, b.training)
    np.testing.assert_array_equal(a.held_out_labels, b.held_out_labels)


def test_too_big_for_memory(judged: Callable[..., Judged], prepared: Prepared, tmp_path: Path) -> None:
    found = judged(flowers(600))
    assert "600 rows of 5 numbers" in refused(lambda: prepare(found, most_bytes=10_000))
    assert "this host has" in refused(lambda: apply(prepared.description, tmp_path / "t.csv", most_bytes=10_000))


def test_none_is_held_out(judged: Callable[..., Judged]) -> None:
    assert "none is held out" in refused(lambda: prepare(judged(flowers(30)), split=0.01))


def test_blocks_change_nothing(judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch) -> None:
    content = flowers(300).replace("\n0.0,", "\n,")
    whole = prepare(judged(content))
    monkeypatch.setattr(table, "CELLS", 40)
    pieces = prepare(judged(content))
    np.testing.assert_array_equal(whole.training, pieces.training)
    assert whole.description == pieces.description


def test_wide(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame(draw.normal(size=(2000, 500)).round(5), schema=[f"f{n}" for n in range(500)])
    frame.with_columns(y=draw.integers(0, 3, 2000)).write_csv(tmp_path / "t.csv")
    found = judge(read(tmp_path / "t.csv"), "y")
    assert says(found)[-2] == "and 460 more: number"
    made = prepare(found)
    assert made.training.shape == (1600, 500) and made.held_out.shape == (400, 500)
    np.testing.assert_array_equal(apply(made.description, tmp_path / "t.csv")[made.held_out_rows], made.held_out)


def test_numbers_module_says_its_defaults() -> None:
    assert (numbers.SPLIT, numbers.MOST_BYTES) == (0.2, 2 * 10**9)
