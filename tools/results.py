"""Make a table over seeds that a lesson shows: data/results/NAME.csv, from the lesson's own code.

    python tools/results.py 03_heads --seeds 0 1 2

Runs the lesson's cells once for each seed with all rows of this table (`seed` and `every_row` of its cell of
parameters), and collects the variable `results_WORD` of NAME = NN_WORD, a list of rows.
"""

import argparse
import contextlib
import csv
import datetime
import io
import os
import platform
import sys
from pathlib import Path

import jupytext
import torch

from notebooks import with_parameters

ROOT = Path(__file__).resolve().parent.parent


def rows_of(name, seed):
    """Run a lesson with this seed up to its cell that fills the table's variable, and return that list of rows.

    The cells of other tables make the lesson's few rows of theirs: what they define may be needed.
    """
    lesson, word = name.split("_", 1)
    variable, names = f"results_{word}", {"__name__": "__main__"}
    (source,) = (ROOT / "notebooks" / "source").glob(f"{lesson}_*.py")
    cells = with_parameters(jupytext.read(source, fmt="py:percent"), seed=seed, every_row=True).cells
    with contextlib.redirect_stdout(io.StringIO()):
        for code in (cell.source for cell in cells if cell.cell_type == "code"):
            if "every_row" in names:
                names["every_row"] = variable in code or "results_" not in code
            exec(compile(code, source.name, "exec"), names)
            if variable in names:
                return names[variable]
    raise SystemExit(f"{source.name} has no cell that fills `{variable}`.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the table, such as 03_heads: a lesson's number and a word")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("TQDM_DISABLE", "1")
    rows = [row for seed in arguments.seeds for row in rows_of(arguments.name, seed)]
    seeds = " ".join(map(str, arguments.seeds))
    write(arguments.name, rows, f"python tools/results.py {arguments.name} --seeds {seeds}")


def write(name, rows, command):
    """Write a table into data/results, below a line with the command that makes it, the versions and the day."""
    path = ROOT / "data" / "results" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        versions = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
        file.write(f"# {command} | {versions} | {datetime.date.today()}\n")
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    print(f"wrote {path.relative_to(ROOT)}, {len(rows)} rows")


if __name__ == "__main__":
    sys.exit(main())
