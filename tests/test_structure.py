"""The package shows its architecture: who may import what, how large each part may be, what the tests need."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

import nextbert_lite

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nextbert_lite"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "_share" not in path.parts]


def room_of(module):
    """Return the room of a dotted name below the package: "core.masking" is in core, "validate" is its own."""
    return module.split(".")[0]


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(source):
    """Return the package's modules that a file imports, anywhere in it, by their dotted names below the package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nextbert_lite":
            below = node.module.removeprefix("nextbert_lite").lstrip(".")
            found |= {below} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("nextbert_lite.") for a in node.names if a.name.startswith("nextbert_lite.")}
    return found - {"__version__"}


def the_map():
    """Return what CONTRIBUTING.md's map says: folder -> the rooms that it may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)(?:/|\.py)` \| .+? \| (.+?) \|$", text, re.MULTILINE)
    return {folder: set(re.findall(r"`(\w+)`", allowed)) for folder, allowed in table}


def forbidden(path, source, allowed):
    """Return what a file imports from rooms that its own may not import."""
    room = room_of(name_of(path))
    return sorted(m for m in imported(source) if room_of(m) not in {room, *allowed[room]})


def test_the_map_names_every_room_of_the_package():
    rooms = {room_of(name_of(path)) for path in MODULES} - {"__init__", "__main__"}
    assert set(the_map()) == rooms


@pytest.mark.parametrize("path", [pytest.param(p, id=name_of(p)) for p in MODULES if not p.stem.startswith("__")])
def test_imports_go_only_where_the_map_says(path):
    assert not forbidden(path, path.read_text(encoding="utf-8"), the_map())


def test_the_arrows_go_one_way():
    allowed = the_map()
    assert allowed["core"] == {"validate"}
    order = ["validate", "files", "core", "training", "corpora", "use"]
    for room in order:
        assert not allowed[room] & set(order[order.index(room) + 1 :]), room
    for room in order:
        assert not allowed[room] & {"views", "course", "checks"}, room
    assert "course" not in allowed["views"]


def test_an_import_that_points_the_wrong_way_is_found():
    path, allowed = PACKAGE / "core" / "masking.py", the_map()
    assert forbidden(path, "from nextbert_lite.training.batches import pad", allowed) == ["training.batches"]
    assert forbidden(path, "def f():\n    import nextbert_lite.use.search", allowed) == ["use.search"]
    assert forbidden(path, "from nextbert_lite import plots", allowed) == ["plots"]


# --- the budget: a small package stays small --------------------------------------------------------------------------

BUILT_FIRST = ("attention", "encoder", "masking", "heads", "contrastive")  # lessons 02 to 05, and 09


def lines(*parts):
    paths = [p for part in parts for p in ([PACKAGE / part] if part.endswith(".py") else (PACKAGE / part).glob("*.py"))]
    assert paths
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


@pytest.mark.parametrize(
    "parts, most",
    [
        pytest.param([f"core/{name}.py" for name in BUILT_FIRST], 700, id="what lessons 02 to 05 and 09 build"),
        pytest.param(["core"], 1_500, id="what the lessons build"),
        pytest.param(["core", "training", "corpora", "use", "validate.py", "files.py"], 7_400, id="all but the course"),
    ],
)
def test_the_budget_of_lines_holds(parts, most):
    assert lines(*parts) <= most


# --- common names -----------------------------------------------------------------------------------------------------


def test_every_common_name_is_there_and_help_lists_it_by_room():
    for name in nextbert_lite.__all__:
        assert getattr(nextbert_lite, name) is not None
        assert re.search(rf"\b{name}\b", nextbert_lite.__doc__)
    rooms = re.findall(r"^(\w+): ", nextbert_lite.__doc__, re.MULTILINE)
    assert rooms == ["core", "training", "corpora", "use", "views", "course"]
    with pytest.raises(AttributeError, match=r"has no attribute .encode.; it has: .*Encoder"):
        nextbert_lite.encode  # noqa: B018


@pytest.mark.parametrize(
    "line",
    [
        "from nextbert_lite.batching import pad, seeded",
        "from nextbert_lite.training import fit, held_out_loss",
        "from nextbert_lite.heads import LabelledBatches, MaskedLanguageModel, evaluating, fill_mask",
        "from nextbert_lite.masking import IGNORE, MLMBatches, mask_tokens",
        "from nextbert_lite.explorer import AttentionExplorer, show",
        "from nextbert_lite.results import stored_table",
        "import nextbert_lite.search as s; s.Bm25",
    ],
)
def test_an_older_copy_of_a_lesson_still_finds_the_first_editions_names(line):
    exec(line, {})


def test_a_name_that_the_course_no_longer_has_says_what_to_do():
    with pytest.raises(ImportError, match=r"'pair_types' is no longer in the course\. `nextbert-lite start DIR` lays"):
        exec("from nextbert_lite.heads import pair_types", {})
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'nextbert_lite\.nonsense'"):
        exec("import nextbert_lite.nonsense", {})


# --- the tests need nothing but the extra `test` ----------------------------------------------------------------------


def needed(requirements):
    """Return the names of the distributions that these requirements bring, with all that those need."""
    found, todo = set(), list(requirements)
    while todo:
        requirement = todo.pop()
        name = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        if name in found or "extra ==" in requirement:
            continue
        found.add(name)
        try:
            todo += distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of another system
    return found


BLOCK = """
import sys
class Blocked:
    names = frozenset({names!r})
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests"]))
"""


def test_the_tests_can_be_collected_with_the_extra_test_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = needed([*project["dependencies"], *project["optional-dependencies"]["test"]]) | {"nextbert-lite"}
    ours |= {"pip", "setuptools", "wheel"}
    others = sorted(
        module
        for module, owners in packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & ours
    )
    extras = ["docutils", "sphinx", "myst_nb", "sphinx_book_theme", "playwright", "accelerate"]
    run = subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=sorted({*others, *extras}))], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
