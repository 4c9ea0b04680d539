"""The command `nextbert-lite`, also `python -m nextbert_lite`."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nextbert_lite import __version__

EXAMPLES = """examples:
  nextbert-lite start workspace               fill the folder with the lessons and open JupyterLab on lesson 00
  nextbert-lite start workspace --lesson 02   open lesson 02
  nextbert-lite start workspace --no-open     fill the folder only (on a hub, in Colab)
  nextbert-lite progress workspace            show which of your exercises pass
  nextbert-lite demo                          pretrain a small encoder on real text, in about 2 minutes
"""
START_EXAMPLES = """A file that is there is never overwritten.
A lesson that has changed is laid beside it, as NAME.new.ipynb.
What follows -- goes to JupyterLab:
  nextbert-lite start workspace -- --no-browser --ip=127.0.0.1
"""
ADVICE = {
    errno.ENOSPC: "the disk is full: make room and repeat the command",
    errno.EDQUOT: "your disk quota is used up: make room and repeat the command",
    errno.EACCES: "this may not be written by you: name another folder",
    errno.EPERM: "this may not be written by you: name another folder",
    errno.EROFS: "this is a read-only disk: name a folder elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a folder: name another folder",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for trouble with files, 2 for a wrong argument, 130 for Ctrl-C.

    Expected trouble is one line on stderr. NEXTBERT_DEBUG=1 shows the whole traceback instead.
    """
    own, extra = split(sys.argv[1:] if arguments is None else list(arguments))
    options = parser().parse_args(own)
    if extra and options.run is not start:
        parser().error("only `start` takes arguments after --; those go to JupyterLab")
    options.extra = extra
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        if os.environ.get("NEXTBERT_DEBUG"):
            raise
        print(f"nextbert-lite: {sentence(error)}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after the first `--`."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def sentence(error: Exception) -> str:
    """Return an error as one line: for the system's own errors, what to do."""
    if isinstance(error, OSError) and error.errno is not None:
        what = ADVICE.get(error.errno, error.strerror or type(error).__name__)
        where = error.filename2 or error.filename
        return f"'{where}': {what}" if where else what
    return " ".join(str(error).split()) or type(error).__name__


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="nextbert-lite",
        description="Build BERT's next generation from scratch: the course's lessons and what they train.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=f"nextbert-lite {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "start",
        help="fill a folder with the lessons and open JupyterLab",
        description="Fill a folder with your copies of the lessons and open JupyterLab.",
        epilog=START_EXAMPLES,
        formatter_class=raw,
    )
    command.add_argument("folder", metavar="DIR", type=Path, help="your folder; made when it is not there")
    command.add_argument("--no-open", action="store_true", help="only fill the folder")
    command.add_argument("--port", type=whole, help="JupyterLab's port (default: the first free one from 8888)")
    command.add_argument("--lesson", help="the lesson to open, such as 02 (default: the first, 00)")
    command.set_defaults(run=start)

    command = commands.add_parser(
        "progress",
        help="show which exercises of your lessons pass",
        description="Run the exercises of the lessons in a folder and show which pass. Your files are only read.",
    )
    command.add_argument(
        "folder",
        metavar="DIR",
        type=Path,
        nargs="?",
        default=Path("workspace"),
        help="your folder (default: workspace)",
    )
    command.add_argument("--json", action="store_true", help="print JSON, with whole messages, for a teacher's script")
    command.set_defaults(run=progress)

    command = commands.add_parser(
        "demo",
        help="pretrain a small encoder on real text and look at what it learned",
        description="Pretrain a small encoder on the documentation in your installed packages and look at what it "
        "learned. Ctrl-C keeps what was trained and still shows it.",
    )
    command.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures (default: demo)")
    command.add_argument("--minutes", type=minutes, default=2.0, help="training time (default: 2)")
    command.add_argument("--seed", type=whole, default=0, help="seed of all that is random (default: 0)")
    command.add_argument("--device", help="cpu, cuda or mps (default: the fastest there is)")
    command.set_defaults(run=demo)
    return top


def whole(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    return int(text)


def minutes(text: str) -> float:
    """Read a time in minutes, more than 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"'{text}' is not a time in minutes; 2 and 0.5 are")
    return value


def start(options: argparse.Namespace) -> int:
    """Fill the folder; open JupyterLab unless told not to."""
    from nextbert_lite.start import lab_arguments, lesson_in, open_lab, prepare

    for line in prepare(options.folder):
        print(line)
    notebook = lesson_in(options.folder, options.lesson)
    if not options.no_open:
        print(f"Opening JupyterLab on {notebook}. To stop it: Ctrl-C here, twice.", flush=True)
        open_lab(lab_arguments(notebook, options.port, options.extra))
    return 0


def progress(options: argparse.Namespace) -> int:
    """Show the table of exercises, lesson by lesson, or all of it as JSON."""
    from nextbert_lite.progress import show

    return show(options.folder, as_json=options.json)


def demo(options: argparse.Namespace) -> int:
    """Pretrain the small encoder of the demonstration."""
    from nextbert_lite.demo import run_demo

    return run_demo(out=options.out, minutes=options.minutes, seed=options.seed, device=options.device)
