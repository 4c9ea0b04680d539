"""How the documentation is collected and split. A child interpreter runs this file; it needs nothing of the package.

What a notebook imported or patched before changes nothing here, and collecting changes nothing there.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

SPLITS = ("train", "validation", "test")
NEAR = 0.6  # TF-IDF cosine above which two texts are near-duplicates; at 0.5 the groups merge into a few huge ones
# A word is two or more letters or digits, in lower case; raw counts, smoothed idf, rows of length 1. Changing any of
# these changes the groups, and with them the splits.
TFIDF = {"lowercase": True, "token_pattern": r"(?u)\b\w\w+\b", "norm": "l2", "smooth_idf": True, "sublinear_tf": False}
LEAST_WORDS = 8  # shorter texts, such as "Alias for `set_color`", are pointers, not documentation

# A fixed list: results must not depend on what else is installed. Left out: modules of one operating system, modules
# that Python 3.12 or 3.13 removed, what needs an optional package (tkinter), prints (this) or warns on import.
_NAMES = {
    "python": """
        abc argparse array ast asyncio atexit base64 bdb binascii bisect builtins bz2 cProfile calendar cmath cmd code
        codecs codeop collections collections.abc colorsys compileall concurrent.futures configparser contextlib
        contextvars copy copyreg csv ctypes dataclasses datetime dbm decimal difflib dis doctest email email.charset
        email.encoders email.generator email.header email.headerregistry email.message email.mime.multipart
        email.mime.text email.parser email.policy email.utils encodings enum errno faulthandler filecmp fileinput
        fnmatch fractions ftplib functools gc getopt getpass gettext glob graphlib gzip hashlib heapq hmac html
        html.entities html.parser http http.client http.cookiejar http.cookies http.server imaplib importlib
        importlib.abc importlib.machinery importlib.metadata importlib.resources importlib.util inspect io ipaddress
        itertools json json.decoder json.encoder keyword linecache locale logging logging.config logging.handlers lzma
        mailbox marshal math mimetypes mmap modulefinder multiprocessing multiprocessing.connection
        multiprocessing.managers multiprocessing.pool multiprocessing.shared_memory netrc numbers operator optparse os
        os.path pathlib pdb pickle pickletools pkgutil platform plistlib poplib pprint profile pstats py_compile pyclbr
        pydoc queue quopri random re reprlib runpy sched secrets select selectors shelve shlex shutil signal site
        smtplib socket socketserver sqlite3 ssl stat statistics string stringprep struct subprocess symtable sys
        sysconfig tabnanny tarfile tempfile textwrap threading time timeit token tokenize tomllib trace traceback
        tracemalloc types typing unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request
        urllib.response urllib.robotparser uuid venv warnings wave weakref webbrowser wsgiref.handlers wsgiref.headers
        wsgiref.simple_server wsgiref.util wsgiref.validate xml.dom xml.dom.minidom xml.dom.pulldom
        xml.etree.ElementTree xml.sax xml.sax.handler xml.sax.saxutils xml.sax.xmlreader xmlrpc.client xmlrpc.server
        zipapp zipfile zipimport zlib zoneinfo""",
    "torch": """
        torch torch.accelerator torch.amp torch.autograd torch.autograd.forward_ad torch.autograd.functional
        torch.autograd.graph torch.autograd.profiler torch.backends torch.backends.cuda torch.backends.cudnn
        torch.backends.mkl torch.backends.mps torch.backends.openmp torch.compiler torch.cpu torch.cuda torch.cuda.amp
        torch.cuda.graphs torch.cuda.memory torch.cuda.nvtx torch.distributed torch.distributed.checkpoint
        torch.distributed.fsdp torch.distributed.pipelining torch.distributed.tensor
        torch.distributed.tensor.parallel torch.distributions torch.distributions.constraints
        torch.distributions.transforms torch.export torch.fft torch.func torch.futures torch.fx torch.fx.experimental
        torch.hub torch.jit torch.library torch.linalg torch.masked torch.monitor torch.mps torch.multiprocessing
        torch.nested torch.nn torch.nn.attention torch.nn.attention.bias torch.nn.attention.flex_attention
        torch.nn.functional torch.nn.init torch.nn.parallel torch.nn.utils torch.nn.utils.parametrizations
        torch.nn.utils.parametrize torch.nn.utils.prune torch.nn.utils.rnn torch.nn.utils.stateless torch.optim
        torch.optim.lr_scheduler torch.optim.swa_utils torch.overrides torch.package torch.profiler torch.quasirandom
        torch.random torch.serialization torch.signal.windows torch.sparse torch.special torch.storage torch.testing
        torch.utils torch.utils.benchmark torch.utils.checkpoint torch.utils.data torch.utils.dlpack torch.xpu""",
    "numpy": """
        numpy numpy.char numpy.ctypeslib numpy.dtypes numpy.exceptions numpy.fft numpy.lib numpy.lib.array_utils
        numpy.lib.format numpy.lib.mixins numpy.lib.npyio numpy.lib.scimath numpy.lib.stride_tricks numpy.linalg
        numpy.ma numpy.ma.mrecords numpy.polynomial numpy.polynomial.chebyshev numpy.polynomial.hermite
        numpy.polynomial.hermite_e numpy.polynomial.laguerre numpy.polynomial.legendre numpy.polynomial.polynomial
        numpy.polynomial.polyutils numpy.random numpy.rec numpy.strings numpy.testing numpy.typing""",
    "matplotlib": """
        matplotlib matplotlib.animation matplotlib.artist matplotlib.axes matplotlib.axis matplotlib.backend_bases
        matplotlib.backend_managers matplotlib.backend_tools matplotlib.backends.backend_agg matplotlib.bezier
        matplotlib.category matplotlib.cbook matplotlib.cm matplotlib.collections matplotlib.colorbar
        matplotlib.colorizer matplotlib.colors matplotlib.container matplotlib.contour matplotlib.dates
        matplotlib.dviread matplotlib.figure matplotlib.font_manager matplotlib.ft2font matplotlib.gridspec
        matplotlib.hatch matplotlib.image matplotlib.inset matplotlib.layout_engine matplotlib.legend
        matplotlib.legend_handler matplotlib.lines matplotlib.markers matplotlib.mathtext matplotlib.mlab
        matplotlib.offsetbox matplotlib.patches matplotlib.path matplotlib.patheffects matplotlib.projections
        matplotlib.projections.geo matplotlib.projections.polar matplotlib.pyplot matplotlib.quiver matplotlib.rcsetup
        matplotlib.sankey matplotlib.scale matplotlib.spines matplotlib.stackplot matplotlib.streamplot
        matplotlib.style matplotlib.table matplotlib.texmanager matplotlib.text matplotlib.textpath matplotlib.ticker
        matplotlib.transforms matplotlib.tri matplotlib.typing matplotlib.units matplotlib.widgets""",
}
MODULES = {library: tuple(names.split()) for library, names in _NAMES.items()}
LIBRARIES = tuple(MODULES)


@dataclass(frozen=True)
class Document:
    """One docstring: its shortest public name, library, module, summary sentence and body, which may be empty."""

    name: str
    library: str
    module: str
    summary: str
    body: str

    @property
    def text(self) -> str:
        """The summary and the body, as one text."""
        return f"{self.summary}\n\n{self.body}" if self.body else self.summary


def tfidf(texts: Sequence[str]):
    from sklearn.feature_extraction.text import TfidfVectorizer  # here, because a cached corpus does not need it

    return TfidfVectorizer(**TFIDF).fit_transform(texts)


def near_pairs(a, b) -> Iterator[tuple[int, int]]:
    """Yield (row of a, row of b) for each pair with a cosine above NEAR, 256 rows at a time: some 30 MB."""
    b = b.T.tocsr()
    for start in range(0, a.shape[0], 256):
        block = (a[start : start + 256] @ b).tocoo()
        keep = block.data > NEAR
        yield from zip((block.row[keep] + start).tolist(), block.col[keep].tolist(), strict=True)


def group(documents: Sequence[Document]) -> list[int]:
    """Return each document's group: those linked by a chain of near-duplicate texts or near-duplicate bodies.

    Bodies count by themselves too, because search compares a summary with bodies: with texts alone 6 % of the test
    bodies had a near-duplicate among the training bodies.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges: list[tuple[int, int]] = []
    for texts in ([d.text for d in documents], [d.body for d in documents]):
        if held := [i for i, text in enumerate(texts) if text]:
            vectors = tfidf([texts[i] for i in held])
            edges += [(held[i], held[j]) for i, j in near_pairs(vectors, vectors)]
    rows, columns = zip(*edges, strict=True)
    graph = coo_array(([True] * len(edges), (rows, columns)), shape=(len(documents),) * 2)
    return connected_components(graph, directed=False)[1].tolist()


def assign(documents: Sequence[Document]) -> list[str]:
    """Return each document's split: a hash of the smallest name of its group decides, so a group stays together."""
    groups, first = group(documents), {}
    for document, number in zip(documents, groups, strict=True):
        first[number] = min(document.name, first.get(number, document.name))
    shares = {number: int(sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for number, name in first.items()}
    return [SPLITS[(shares[number] >= 0.8) + (shares[number] >= 0.9)] for number in groups]


def harvest() -> list[Document]:
    """Collect the documents, by name. Imports every module of MODULES that is installed here."""
    names: dict[str, tuple] = {}
    for library, modules in MODULES.items():
        for module_name in modules:
            try:
                module = importlib.import_module(module_name)
            except ImportError:
                continue  # this version or build lacks it
            for distance, name, docstring in _members(module, library):
                if isinstance(docstring, str) and docstring.strip():
                    name = name.removeprefix("builtins.")
                    found = (len(name), distance, name, library, module_name)
                    names[docstring] = min(found, names.get(docstring, found))
    documents: dict[str, Document] = {}
    for docstring, (_, _, name, library, module_name) in sorted(names.items(), key=lambda item: item[1]):
        document = Document(name, library, module_name, *parse(docstring))
        if document.summary and len(re.findall(r"[A-Za-z]{2,}", document.text)) >= LEAST_WORDS:
            documents.setdefault(document.text, document)
    return sorted(documents.values(), key=lambda d: d.name)


# :class:`~torch.Tensor` and :ref:`broadcasting <target>` read as `torch.Tensor` and `broadcasting`.
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)*:`~?([^`<]+?)(?:\s*<[^`>]*>)?`")
_WORD = re.compile(r"[A-Za-z][a-z]+(?![\w(.])|[Aa]\b")
_NOT_PROSE = re.compile(r"\s|\.\.|>>>|::|[-*+|=#~]|:\w+|\d+[.)]\s|\w+( \w+)?::?$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<!\.[A-Za-z])(?<!\bvs)[.!?](?=\s+[A-Z`'\"(\[*])")


def _is_public(qualified: str) -> bool:
    return not any(part.startswith("_") for part in qualified.split("."))


def _belongs(home: object, library: str, module: str, exported: bool) -> bool:
    """Whether an object whose `__module__` is `home` counts as `module`'s own: imported helpers do not."""
    if not isinstance(home, str):
        return True  # functions written in C often do not know their module
    root = home.partition(".")[0]
    if root not in (sys.stdlib_module_names if library == "python" else {library}):
        return False
    return exported or home == module or home.startswith(module + ".") or not _is_public(home)


def _members(module: ModuleType, library: str) -> Iterator[tuple[int, str, str]]:
    """Yield (distance, qualified name, docstring) of a module, its public functions and classes, and their members.

    Looks in dictionaries only: getattr would wake lazy and deprecated attributes, which warn. The distance is 0, or for
    a member how far up among private base classes it was written.
    """
    yield 0, module.__name__, module.__doc__
    exported = getattr(module, "__all__", None)
    for name, value in vars(module).items():
        qualified = f"{module.__name__}.{name}"
        if not callable(value) or name.startswith("_") or (exported is not None and name not in exported):
            continue
        if not _belongs(getattr(value, "__module__", None), library, module.__name__, exported is not None):
            continue
        if not inspect.isclass(value):
            if value.__doc__ != type(value).__doc__:  # an instance without a docstring of its own shows its class's
                yield 0, qualified, value.__doc__
            continue
        yield 0, qualified, value.__doc__
        seen = set()
        for distance, base in enumerate(value.__mro__):
            if distance and _is_public(f"{base.__module__}.{base.__name__}"):
                continue  # what a public base class says stands under that class's name
            for key, member in vars(base).items():
                if key.startswith("_") or key in seen or inspect.isclass(member):
                    continue
                seen.add(key)
                if member.__doc__ != type(member).__doc__:
                    yield distance, f"{qualified}.{key}", member.__doc__


def _skip_signatures(text: str) -> str:
    """Drop leading lines such as "add(input, other) -> Tensor", which functions written in C have for a signature."""
    while match := re.match(r"[A-Za-z_][\w.]*\(", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += (text[end] in "([{") - (text[end] in ")]}")
            end += 1
        line, _, rest = text[end:].partition("\n")
        if depth or (line.strip() and not re.match(r"\s*(--?>|--|[:.,=])", line)):
            break  # prose that happens to start with a call
        rest = rest.removeprefix("--\n")
        remark = re.sub(r"^\s*(->\s*[^\s,.:]+\s*(,|\.\s|:|--)|--?>|--|[:.,])\s*", "", line).strip()
        enough = 3 if remark.endswith(".") else 5
        if len(_WORD.findall(remark)) >= enough and not remark.endswith(("]", ")")) and not re.match(r"\w+\(", rest):
            return f"{remark}\n{rest}".strip()  # "D.pop(k) -> v, remove the key and return its value."
        text = rest.strip()
    return text


def parse(docstring: str) -> tuple[str, str]:
    """Split a docstring into its summary, the first sentence of prose on one line, and its body, all the rest.

    Signature lines and the markup of cross-references are dropped. The summary is empty when there is no prose.
    """
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", inspect.cleandoc(docstring))  # addresses differ from process to process
    text = _skip_signatures(_ROLE.sub(r"`\1`", text))
    paragraphs = [p.strip("\n").rstrip() for p in re.split(r"\n[ \t]*\n", text) if p.strip()]
    for i, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        prose = next((n for n, line in enumerate(lines) if _NOT_PROSE.match(line)), len(lines))
        lead = "\n".join(lines[:prose])
        underlined = prose < len(lines) and len(lines[prose]) > 2 and set(lines[prose]) <= set("=-~^")
        if underlined or len(_WORD.findall(lead)) < 2:
            continue  # a heading, a directive, an example, a list
        end = match.end() if (match := _SENTENCE_END.search(lead)) else len(lead)
        rest = paragraph[end:].strip("\n ")
        return " ".join(lead[:end].split()), "\n\n".join(p for p in [*paragraphs[:i], rest, *paragraphs[i + 1 :]] if p)
    return "", text


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and the documented packages on this machine."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: version(name) for name in LIBRARIES if name != "python"}}


def digest(splits: dict[str, list[dict]]) -> str:
    return sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()


def _main(path: str) -> None:
    """Run in the child: collect, split and write one JSON file."""
    documents = harvest()
    splits: dict[str, list[dict]] = {name: [] for name in SPLITS}
    for document, split in zip(documents, assign(documents), strict=True):
        splits[split].append(asdict(document))
    fingerprint = {**installed_versions(), "documents": len(documents), "sha256": digest(splits)}
    Path(path).write_text(json.dumps({"fingerprint": fingerprint, "splits": splits}), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1])
