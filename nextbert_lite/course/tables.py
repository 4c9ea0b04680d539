"""Texts of one's own from a CSV file: with their labels (`read_csv`, lesson 13), or two by two (`pairs`)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nextbert_lite.files import read_text

NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}  # what parts fields


def read_csv(
    path: str | Path, text: str = "text", label: str = "label", encoding: str = "utf-8", separator: str = ","
) -> tuple[list[str], list[str]]:
    """Return the texts and the labels of a CSV file with a header line; other columns are left out.

    text, label: the names of the two columns. Spaces behind a separator do not count. Raises FileNotFoundError, or
    ValueError with the line for a column that is missing, an empty text or label, a row with too many or too few
    fields, and bytes that are not in the encoding.
    """
    _, rows = read_columns(path, (text, label), encoding=encoding, separator=separator)
    return [row[0] for row in rows], [row[1].strip() for row in rows]


def read_columns(
    path: str | Path, names: Sequence[str], wanted: int = 0, encoding: str = "utf-8", separator: str = ","
) -> tuple[list[str], list[list[str]]]:
    """Return the names of columns of a CSV file and, for each row, what stands there. Raises as `read_csv`.

    names: the columns; none: all of them, if the file has as many as are wanted. wanted: 0 when `read_csv` asks.
    """
    path = Path(path)
    if len(separator) != 1 or separator in ' "\r\n':
        raise ValueError(f"separator is {separator!r}; it must be one character between the fields: , ; | or a tab.")
    if isinstance(names, str) or len(set(names)) < len(names) or (wanted and len(names) not in (0, wanted)):
        raise ValueError(f"the columns are named {names!r}; name {wanted or 2} different ones.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}. Its folder {path.parent.resolve()} is where I looked.")
    content = read_text(path, encoding, newline="", call="" if wanted else "read_csv")
    example = separator.join(names or ("question", "answer"))
    if not content.strip():
        raise ValueError(f"{path} is empty; expected a first line such as {example} and one line a text.")
    reader = csv.reader(io.StringIO(content, newline=""), strict=True, delimiter=separator, skipinitialspace=True)
    rows = []
    try:
        with _fields_of_any_length():
            header = [name.strip() for name in next(reader)]
            columns = _columns(path, header, names, wanted, separator)
            names = list(names) or header
            start = reader.line_num + 1
            for row in reader:
                place, start = f"{path}, line {start}", reader.line_num + 1
                if not row:
                    continue  # a blank line
                if len(row) != len(header):
                    what = NAMES.get(separator, repr(separator))
                    raise ValueError(
                        f"{place}: {len(row)} fields, but the first line has {len(header)}. A text with a {what} or a "
                        'line break in it must stand in "double quotes".'
                    )
                for name, column in zip(names, columns, strict=True):
                    if not row[column].strip():
                        raise ValueError(f"{place}: the {name} is empty. Fill it in, or delete the row.")
                    if row[column] != row[column].lstrip() and row[column].lstrip()[0] == '"':
                        raise ValueError(
                            f"{place}: before the double quote of the {name} stands a blank that is no space, so the "
                            "quotes would count as text. Delete that blank."
                        )
                rows.append([row[column] for column in columns])
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}. Is a double quote left open, or is there a space behind one?"
        ) from None
    if not rows:
        raise ValueError(f"{path} has a first line and no texts below it.")
    return names, rows


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the limit of 131,072 characters that the csv module has for all its readers."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _columns(path: Path, header: list[str], names: Sequence[str], wanted: int, separator: str) -> list[int]:
    """Return the numbers of the columns; ValueError that says what the first line has instead, and what to do."""
    line = separator.join(header)
    if line.lower().startswith("sep="):
        mark = line[4:5] or separator
        named = "" if mark == separator else f" and name the separator: {_named(mark, wanted)}"
        raise ValueError(f"{path} begins with the line 'sep={mark}', which spreadsheets add. Delete it{named}.")
    missing = [name for name in names if header.count(name) != 1]
    if not missing and (names or len(header) == wanted):
        return [header.index(name) for name in names] or list(range(wanted))
    short = [name if len(name) <= 30 else f"{name[:29]}…" for name in header[:8]]
    found = ", ".join(short + [f"and {len(header) - 8} more"] * (len(header) > 8)) or "none"
    for mark, what in NAMES.items():
        parts = [part.strip(' "') for part in line.split(mark)]
        if mark != separator and len(parts) > 1 and (len(header) == 1 or (names and set(names) <= set(parts))):
            now = f"{NAMES[separator]}s" if separator in NAMES else repr(separator)
            raise ValueError(
                f"{path} has other columns than expected: its fields are not separated by {now} but, it seems, by "
                f"{what}s. Name the separator: {_named(mark, wanted)}."
            )
    mine = "columns=(..., ...), in the command --columns A B" if wanted else "read_csv(path, text=..., label=...)"
    if not missing:
        raise ValueError(
            f"{path} has {len(header)} columns ({found}); expected {wanted}, or say which to take: {mine}."
        )
    what = "more than one column" if missing[0] in header else "no column"
    none = set(names).isdisjoint(header)
    above = f" If the first line is a text already, put a line of names above it: {separator.join(names)}."
    raise ValueError(
        f"{path} has {what} {missing[0]!r}. Columns found: {found}. Rename one in the first line, or name yours: "
        f"{mine}.{above if none else ''}"
    )


def _named(mark: str, wanted: int) -> str:
    """Return how to say which character parts the fields."""
    mark = "\\t" if mark == "\t" else mark
    return f'separator="{mark}"' + (f', in the command --separator "{mark}"' if wanted else "")
