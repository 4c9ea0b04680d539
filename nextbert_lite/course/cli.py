"""The command `nextbert-lite`, also `python -m nextbert_lite`."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path

from nextbert_lite import __version__
from nextbert_lite.files import launched

EXAMPLES = """examples:
  nextbert-lite start workspace               fill the folder with the lessons and open JupyterLab on lesson 00
  nextbert-lite start workspace --lesson 02   open lesson 02
  nextbert-lite start workspace --no-open     fill the folder only (on a hub, in Colab)
  nextbert-lite progress workspace            show which of your exercises pass
  nextbert-lite assemble workspace            collect what you built there into a package, workspace/my_bert
  nextbert-lite demo                          pretrain a small encoder on real text, in about 2 minutes
  nextbert-lite pretrain --corpus docs --minutes 20 --out my-model    train a model of your own to keep
  nextbert-lite pairs --data mine.csv --minutes 5 --out my-encoder    a sentence encoder from pairs of your own
  nextbert-lite export my-encoder for-others --format sentence-transformers    a folder that other libraries open
  nextbert-lite search "invert a matrix"      search the documentation of your installed packages
"""
START_EXAMPLES = """A file that is there is never overwritten.
A lesson that has changed is laid beside it, as NAME.new.ipynb.
What follows -- goes to JupyterLab:
  nextbert-lite start workspace -- --no-browser --ip=127.0.0.1
"""
PRETRAIN_EXAMPLES = """examples:
  nextbert-lite pretrain --corpus toy --steps 3000 --out my-toy           the toy world, near its floor in a minute
  nextbert-lite pretrain --corpus docs --minutes 10 --out my-docs         the documentation on this machine
  nextbert-lite pretrain --corpus docs --preset modern-small --minutes 10 --out my-modern    with ModernBERT's parts
  nextbert-lite pretrain --corpus notes/ --minutes 20 --out my-notes      your own .txt files
  nextbert-lite pretrain --corpus reviews.txt --lines --minutes 20 --out my-reviews    one text a line
  nextbert-lite pretrain --corpus "news/**/*.jsonl" --pack --minutes 60 --out my-news  more text than fits into memory
  nextbert-lite pretrain --corpus hub:owner/name --steps 9000 --out mine  a public data set, over the network
The folder gets model.safetensors, tokenizer.json and card.json; in Python:
  model, tokenizer = nextbert_lite.load("my-docs")
Ctrl-C, a full disk, a power cut: the same command goes on from the last checkpoint. On several processes or GPUs:
  torchrun --nproc-per-node 2 -m nextbert_lite pretrain --corpus docs --steps 3000 --batch 64 --out my-docs
"""
PAIRS_EXAMPLES = """examples:
  nextbert-lite pairs --data questions.csv --minutes 5 --out my-encoder             a file with two columns
  nextbert-lite pairs --data faq.csv --columns question answer --steps 300 --out my-encoder
  nextbert-lite pairs --data docs --steps 900 --batch 160 --bf16 --out mine         one like docs-contrastive
One row is two texts that belong together: a question and its answer, a title and its text, two ways to say the same.
Two in ten pairs are held out, to measure by. In Python, and for search:
  vectors = nextbert_lite.embed(texts, "my-encoder")
  classifier = nextbert_lite.fine_tune(texts, labels, start="my-encoder")
  nextbert-lite search "invert a matrix" --model my-encoder
Ctrl-C, a full disk, a power cut: the same command goes on from the last checkpoint.
"""
SEARCH_EXAMPLES = """examples:
  nextbert-lite search "invert a matrix"
  nextbert-lite search "draw a histogram" -k 10 --library matplotlib
The first search makes the index, which takes minutes; the later ones find it ready.
score: the share of BM25 (words in common, in any form and inside of names; rare ones count most) and of the cosine
(nearness of the texts' vectors), each in standard deviations above the mean document. words: what each word of the
query added to BM25.
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
    """Run one command and return its exit status: 0, 1 for trouble here, 2 for a wrong argument, 130 for Ctrl-C.

    Expected trouble is one line on stderr; of several ranks it is one line for all, and 1 for a wrong argument too.
    NEXTBERT_DEBUG=1 shows the whole traceback instead.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal may lack a character
    own, extra = split(sys.argv[1:] if arguments is None else list(arguments))
    options = parser().parse_args(own)
    if extra and options.run is not start:
        parser().error("only `start` takes arguments after --; those go to JupyterLab")
    options.extra = extra
    try:
        return options.run(options)
    except KeyboardInterrupt:
        if may_speak():
            print("nextbert-lite: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    except (OSError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        if os.environ.get("NEXTBERT_DEBUG"):
            raise
        if may_speak():
            print(f"nextbert-lite: {sentence(error)}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, ValueError | ArithmeticError) and not launched() else 1


def may_speak() -> bool:
    """Return whether this process may tell an error: of several ranks the first to have one does."""
    if not launched():
        return True
    from nextbert_lite.training.distributed import first_to_say

    return first_to_say()


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after the first `--`."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def sentence(error: Exception) -> str:
    """Return an error as one line: for the system's own errors, what to do."""
    if isinstance(error, MemoryError):
        return "there is not enough memory: take a smaller --batch, a smaller model or less text"
    if isinstance(error, RecursionError):
        return "something that was read is nested too deeply"
    if isinstance(error, OSError) and error.errno is not None:
        what = ADVICE.get(error.errno, error.strerror or type(error).__name__)
        where = error.filename2 or error.filename
        if where and error.errno in (errno.EACCES, errno.EPERM) and unreadable(Path(os.fsdecode(where))):
            what = "this may not be read by you: ask for the right to, or name another"
        return f"'{where}': {what}" if where else what
    return " ".join(str(error).split()) or type(error).__name__


def unreadable(path: Path) -> bool:
    """Return whether what is there may not be read, or a folder on the way to it not be entered."""
    if os.path.lexists(path):
        return not os.access(path, os.R_OK)
    there = next((folder for folder in path.absolute().parents if os.path.lexists(folder)), None)
    return there is not None and not os.access(there, os.X_OK)


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
    command.add_argument("folder", metavar="DIR", type=folder, help="your folder; made when it is not there")
    command.add_argument("--no-open", action="store_true", help="only fill the folder")
    command.add_argument("--port", type=whole, help="JupyterLab's port (default: the first free one from 8888)")
    command.add_argument("--lesson", type=named, help="the lesson to open, such as 02 (default: the first, 00)")
    command.set_defaults(run=start)

    command = commands.add_parser(
        "progress",
        help="show which exercises of your lessons pass",
        description="Run the exercises of the lessons in a folder and show which pass. Your files are only read.",
    )
    learners_folder(command)
    command.add_argument("--json", action="store_true", help="print JSON, with whole messages, for a teacher's script")
    command.set_defaults(run=progress)

    command = commands.add_parser(
        "assemble",
        help="collect what you built in your lessons into a package, my_bert",
        description="Collect the builds of the lessons in a folder that pass their checks into a package, DIR/my_bert. "
        "Where one does not, the course's stands in, marked. A file there that you edited is never overwritten.",
    )
    learners_folder(command)
    command.set_defaults(run=assemble)

    command = commands.add_parser(
        "demo",
        help="pretrain a small encoder on real text and look at what it learned",
        description="Pretrain a small encoder on the documentation in your installed packages and look at what it "
        "learned. Ctrl-C keeps what was trained and still shows it.",
    )
    command.add_argument("--out", type=folder, default=Path("demo"), help="folder for the pictures (default: demo)")
    command.add_argument("--minutes", type=minutes, default=2.0, help="training time (default: 2)")
    command.add_argument("--seed", type=whole, default=0, help="seed of all that is random (default: 0)")
    command.add_argument("--device", help="cpu, cuda or mps (default: the fastest there is)")
    command.set_defaults(run=demo)

    command = commands.add_parser(
        "pretrain",
        help="pretrain a masked language model and keep it",
        description="Pretrain a masked language model and write it, with a card that says how it was made.",
        epilog=PRETRAIN_EXAMPLES,
        formatter_class=raw,
    )
    command.add_argument(
        "--corpus",
        required=True,
        type=named,
        help="toy, docs (the documentation of your installed packages), a path of .txt files; or, streamed: a path or "
        "a pattern of text, .jsonl and .parquet files, a public data set as hub:owner/name",
    )
    command.add_argument("--lines", action="store_true", help="each line of the files is a text, not each paragraph")
    command.add_argument("--preset", default="tiny", help="tiny (default), small or base; modern-tiny, -small, -base")
    run_options(command, batch=32, lr="by the preset")
    command.add_argument(
        "--rate",
        type=number(0, 1, "a share of the tokens; 0.15 and 0.3 are"),
        default=0.3,
        help="proportion of tokens that are selected (default: 0.3)",
    )
    command.add_argument(
        "--set",
        action="append",
        type=config_field,
        default=[],
        metavar="FIELD=VALUE",
        dest="changes",
        help="change a field of the preset's EncoderConfig or ModernConfig: --set norm=pre, --set window=16",
    )
    command.add_argument(
        "--vocab",
        type=positive,
        default=4096,
        dest="vocab_size",
        metavar="VOCAB",
        help="tokens of the BPE vocabulary (default: 4096)",
    )
    command.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        metavar="N",
        help="cut each batch into N parts, one after the other: less memory, the same gradient (default: 1)",
    )
    streamed = command.add_argument_group("a corpus larger than memory")
    streamed.add_argument("--stream", action="store_true", help="read .txt files while training, too, a part at a time")
    streamed.add_argument("--column", type=named, help="what has the text in JSONL and Parquet (default: text)")
    streamed.add_argument("--pack", action="store_true", help="fill each row with several texts, without padding")
    streamed.add_argument("--drop-repeated", action="store_true", help="leave out texts that come again, word for word")
    streamed.add_argument("--workers", type=whole, default=1, help="processes that tokenize ahead (default: 1)")
    command.set_defaults(run=pretrain)

    command = commands.add_parser(
        "pairs",
        help="train a sentence encoder on pairs of texts and keep it",
        description="Train a sentence encoder on pairs of texts that belong together and write it, with a card that "
        "says how it was made and how well it finds what belongs together, before and after.",
        epilog=PAIRS_EXAMPLES,
        formatter_class=raw,
    )
    command.add_argument("--data", required=True, type=named, help="a CSV file of two columns, or docs", dest="pairs")
    command.add_argument("--columns", nargs=2, default=(), metavar=("A", "B"), help="the columns, if there are more")
    command.add_argument("--separator", type=separator, default=",", help="what parts the fields (default: ,)")
    command.add_argument(
        "--start", type=named, default="docs-small", help="the checkpoint to begin with (default: docs-small)"
    )
    run_options(command, batch=64, lr="6e-4")
    command.add_argument("--temperature", type=number(0, math.inf, "a temperature; 0.05 is"), default=0.05)
    command.add_argument("--pooling", default="mean", choices=("mean", "cls", "first-last"), help="(default: mean)")
    command.add_argument("--max-len", type=positive, help="tokens of a text in training (default: all that it reads)")
    command.set_defaults(run=pairs)

    command = commands.add_parser(
        "export",
        help="write a checkpoint for transformers or sentence-transformers",
        description="Write a checkpoint and its tokenizer as a folder that one of these two libraries opens.",
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", type=named, help="a shipped one's name, or a folder")
    command.add_argument("folder", metavar="FOLDER", type=folder, help="a new folder")
    command.add_argument("--format", default="transformers", help="transformers (default) or sentence-transformers")
    command.set_defaults(run=export)

    command = commands.add_parser(
        "search",
        help="search the documentation of your installed packages",
        description="Search the documentation of Python, PyTorch, NumPy and Matplotlib on this machine, by words and "
        "by the vectors of a model.",
        epilog=SEARCH_EXAMPLES,
        formatter_class=raw,
    )
    command.add_argument("query", metavar="QUERY", nargs="+", help="what you look for")
    command.add_argument("-k", type=positive, default=5, help="how many hits (default: 5)")
    command.add_argument("--library", help="only python, torch, numpy or matplotlib (default: all)")
    command.add_argument(
        "--model", type=named, default="docs-contrastive", help="a checkpoint (default: docs-contrastive)"
    )
    command.add_argument("--rerank", action="store_true", help="let a cross-encoder order the first hits anew")
    command.add_argument("--rebuild", action="store_true", help="make the index anew")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=search)
    return top


def learners_folder(command: argparse.ArgumentParser) -> None:
    """Add the argument of a command that reads a learner's folder."""
    usual = Path("workspace")
    command.add_argument(
        "folder", metavar="DIR", type=folder, nargs="?", default=usual, help="your folder (default: workspace)"
    )


def named(text: str) -> str:
    """Read a name or a path; a blank one would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; write a name, or . for the current folder")
    return text


def folder(text: str) -> Path:
    """Read the path of a folder."""
    return Path(named(text))


def whole(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    if len(text) > 18:
        raise argparse.ArgumentTypeError(
            f"'{text[:18]}…' is too large: a whole number of at most 18 digits is expected"
        )
    return int(text)


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    if whole(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


def separator(text: str) -> str:
    """Read the one character between fields; a tab may be written as two, \\t."""
    text = "\t" if text == "\\t" else text
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not one character; ';' and '\\t' (a tab) are")
    return text


def number(low: float, high: float, words: str) -> Callable[[str], float]:
    """Return a reader of numbers above `low` and up to `high`; words: what it says of anything else."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value <= high and value < math.inf):
            raise argparse.ArgumentTypeError(f"'{text}' is not {words}")
        return value

    return read


minutes = number(0, math.inf, "a time in minutes; 2 and 0.5 are")


def run_options(command: argparse.ArgumentParser, batch: int, lr: str) -> None:
    """Add what `pretrain` and `pairs` have in common."""
    command.add_argument("--out", type=folder, required=True, help="folder for the model; made when it is not there")
    length = command.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=minutes, help="training time; turned into steps by a short trial")
    length.add_argument("--steps", type=positive, help="training steps")
    command.add_argument("--batch", type=positive, default=batch, help=f"texts in a batch (default: {batch})")
    rate = number(0, math.inf, "a learning rate; 0.001 and 3e-4 are")
    command.add_argument("--lr", type=rate, help=f"highest learning rate (default: {lr})", default=argparse.SUPPRESS)
    command.add_argument("--seed", type=whole, default=0, help="seed of all that is random (default: 0)")
    command.add_argument("--device", help="cpu, cuda or mps (default: the fastest there is)")
    command.add_argument(
        "--bf16",
        action="store_true",
        default=None,
        help="products in bfloat16 on the CPU too: faster where the processor has them (a GPU does it anyway)",
    )
    command.add_argument(
        "--shard",
        action="store_true",
        help="started by torchrun: each process keeps a part of weights, gradients and optimizer (FSDP2)",
    )
    command.add_argument("--replace", action="store_true", help="when finished, take the place of the model in --out")


def config_field(text: str) -> tuple[str, int | float | str | bool | None]:
    """Read FIELD=VALUE; a value that looks like a number is one, and True, False and None are Python's."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' is not FIELD=VALUE; norm=pre and max_len=64 are")
    if value in ("True", "False", "None"):
        return name, {"True": True, "False": False}.get(value)
    if value.isdigit():
        return name, int(value)
    try:
        return name, float(value)
    except ValueError:
        return name, value


def start(options: argparse.Namespace) -> int:
    """Fill the folder; open JupyterLab unless told not to."""
    from nextbert_lite.course.workspace import lab_arguments, lesson_in, open_lab, prepare

    for line in prepare(options.folder):
        print(line)
    notebook = lesson_in(options.folder, options.lesson)
    if not options.no_open:
        print(f"Opening JupyterLab on {notebook}. To stop it: Ctrl-C here, twice.", flush=True)
        open_lab(lab_arguments(notebook, options.port, options.extra))
    return 0


def assemble(options: argparse.Namespace) -> int:
    """Run `nextbert-lite assemble`."""
    from nextbert_lite.course.assemble import assemble as written

    for line in written(options.folder):
        print(line, flush=True)
    print(f"In Python, started in {options.folder}: import my_bert; help(my_bert)")
    return 0


def progress(options: argparse.Namespace) -> int:
    """Show the table of exercises, lesson by lesson, or all of it as JSON."""
    from nextbert_lite.course.progress import show

    return show(options.folder, as_json=options.json)


def demo(options: argparse.Namespace) -> int:
    """Pretrain the small encoder of the demonstration."""
    from nextbert_lite.course.demo import run_demo

    return run_demo(**arguments_of(options))


def pretrain(options: argparse.Namespace) -> int:
    """Pretrain and write a checkpoint; 130 when it was interrupted."""
    from nextbert_lite.course.pretraining import pretrain as run
    from nextbert_lite.course.runs import alone_in

    options.changes = dict(options.changes)
    with alone_in(options.out):
        return 130 if run(**arguments_of(options)) is None else 0


def pairs(options: argparse.Namespace) -> int:
    """Train a sentence encoder and write it; 130 when it was interrupted."""
    from nextbert_lite.course.pairs import train_pairs
    from nextbert_lite.course.runs import alone_in

    with alone_in(options.out):
        return 130 if train_pairs(**arguments_of(options)) is None else 0


def export(options: argparse.Namespace) -> int:
    """Write a checkpoint for another library."""
    from nextbert_lite.use.checkpoints import load
    from nextbert_lite.use.export import export as write

    write(*load(options.checkpoint), options.folder, options.format)
    opens = "SentenceTransformer" if options.format == "sentence-transformers" else "AutoModel.from_pretrained"
    print(f"Wrote {options.folder}; in Python: {opens}({str(options.folder)!r})")
    return 0


def arguments_of(options: argparse.Namespace) -> dict:
    """Return a command's options as the arguments of its function, which have the same names."""
    return {name: value for name, value in vars(options).items() if name not in ("run", "extra")}


def search(options: argparse.Namespace) -> int:
    """Search and print the hits; what is told on the way goes to stderr, so that --json stays JSON."""
    from nextbert_lite.course.documentation import open_index
    from nextbert_lite.use.search import check_query, hits_text

    query = " ".join(options.query)
    check_query(query, options.k, options.library)
    with redirect_stdout(sys.stderr):
        index = open_index(options.model, options.rebuild, report=partial(print, flush=True))
        if options.rerank:
            from nextbert_lite.use.rerank import reranked

            hits = reranked(index, query, options.k, options.library)
        else:
            hits = index.search(query, options.k, options.library)
    if options.json:
        found = [asdict(hit.document) | hit._asdict() for hit in hits]
        for row in found:
            del row["document"], row["body"]
        print(json.dumps({"query": query, "hits": found}, indent=1))
    else:
        print(hits_text(hits))
    return 0
