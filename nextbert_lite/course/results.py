"""Tables over seeds that are stored with the course, in data/results/."""

import csv

from nextbert_lite.files import say, share_dir


def stored_table(name: str) -> list[dict[str, str]]:
    """Print the command, versions and date that made data/results/NAME.csv, and return its rows, texts by column."""
    path = share_dir("data") / "results" / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {name}; `python tools/results.py {name}` makes it.")
    made, *rows = path.read_text(encoding="utf-8").splitlines()
    say(made.removeprefix("# "))
    return list(csv.DictReader(rows))
