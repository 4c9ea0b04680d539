"""`nextbert-lite assemble`: what was built becomes a package, the course fills in the rest, and nothing is lost."""

import ast
import json
import subprocess
import sys

import pytest

from nextbert_lite.course import assemble, cli, progress
from nextbert_lite.course import workspace as lessons

CHECK = """
def right_area(w, h):
    return w * h

def right_volume(w, h, d):
    return right_area(w, h) * d

class CheckFailed(AssertionError):
    pass

def mine(name, answer):
    right, case = {"02.1": (right_area, (2, 3)), "03.1": (right_volume, (2, 3, 4))}[name]
    try:
        return answer if answer(*case) == right(*case) else right
    except Exception:
        return right

def area(answer):
    if answer is None or answer(2, 3) is None:
        raise CheckFailed("02.1 is blank.")
    assert answer(2, 3) == 6

def volume(answer):
    if answer is None or answer(2, 3, 4) is None:
        raise CheckFailed("03.1 is blank.")
    assert answer(2, 3, 4) == 24
"""
AREA = "def area(w, h):\n    ### BEGIN SOLUTION\n    return w * h  # width times height\n    ### END SOLUTION"
VOLUME = "def volume(w, h, d):\n    ### BEGIN SOLUTION\n    return area(w, h) * d\n    ### END SOLUTION"


def code(source, *tags, id="c"):
    return {"cell_type": "code", "id": id, "metadata": {"tags": list(tags)}, "outputs": [], "source": source}


def lesson(name, number, source, *context):
    return [
        code("import tiny_check as check"),
        *(code(text) for text in context),
        code(source, f"exercise-{number}", f"my-bert-{'flat' if number == '02.1' else 'solid'}", id=name),
        code(f"check.{name}({name})"),
        code(f'{name} = check.mine("{number}", {name})'),
    ]


def save(path, cells):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The learner's copies, solved, of two shipped lessons: one builds an area, the other a volume from it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tiny_check.py").write_text(CHECK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setattr(lessons, "share_dir", lambda name: tmp_path / "shipped")
    for place in ("shipped", "ws"):
        save(tmp_path / place / "02_area.ipynb", lesson("area", "02.1", AREA))
        save(
            tmp_path / place / "03_volume.ipynb",
            lesson("volume", "03.1", VOLUME, "from tiny_check import right_area as area"),
        )
    return tmp_path / "ws"


def solve(folder, name, source, *context):
    number = {"area": "02.1", "volume": "03.1"}[name]
    save(folder / f"{number[:2]}_{name}.ipynb", lesson(name, number, source, *context))


def run(folder, expression):
    """Return what an expression gives in a Python of its own that imports the package."""
    line = f"import my_bert; print({expression})"
    ended = subprocess.run([sys.executable, "-B", "-c", line], cwd=folder, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    return ended.stdout.strip()


def text(folder, name):
    return (folder / "my_bert" / f"{name}.py").read_text(encoding="utf-8")


def test_what_was_built_is_one_package_and_its_parts_find_each_other(folder):
    made = list(assemble.assemble(folder))
    assert [line.split()[0] for line in made] == ["made"] * 3
    assert run(folder, "my_bert.volume(2, 3, 4), my_bert.YOURS") == "24 ('area', 'volume')"
    assert "return w * h  # width times height" in text(folder, "flat")  # to the letter, comments too
    assert "### BEGIN" not in text(folder, "flat") and "area: yours." in text(folder, "flat")
    assert "from my_bert.flat import area" in text(folder, "solid")  # and not what the lesson imports in its place
    assert "right_area" not in text(folder, "solid")


def test_the_course_fills_in_what_is_blank_wrong_or_missing_and_says_so(folder):
    for source, why in (
        ("def area(w, h):\n    pass", "is blank"),
        ("def area(w, h):\n    return w + h", "does not pass yet"),
        ("def area(w, h)", "does not pass yet"),
        (None, "is not in your copy"),
    ):
        if source is None:
            save(folder / "02_area.ipynb", [code("1")])
        else:
            solve(folder, "area", source)
        list(assemble.assemble(folder))
        assert run(folder, "my_bert.volume(2, 3, 4), my_bert.YOURS") == "24 ('volume',)"
        for name in ("flat", "__init__"):
            assert f"area: the course's, for 02.1 {why}." in text(folder, name)
        assert f"# the course's, for 02.1 {why}\ndef area(w, h):" in text(folder, "flat")
    (folder / "02_area.ipynb").unlink()
    list(assemble.assemble(folder))
    assert run(folder, "my_bert.YOURS") == "('volume',)"


def test_helpers_constants_classes_and_imports_of_the_notebook_come_along_and_no_other_cell(folder):
    context = (
        "import math as m\nimport os.path\nfrom operator import mul, add",
        "ONE = 1\nTABLE = {'a': [1, 2]}\nnever_run = 1 / 0",
        "class Base:\n    factor = ONE\n\n\n@staticmethod\ndef unused(): pass",
        "def doubled(x):\n    return [mul(one, 2) for one in (x,)][0]  # kept",
        "class Helper(Base):\n    @staticmethod\n    def half(x):\n        return m.floor(x / 2) * Helper.factor",
    )
    solve(folder, "area", "def area(w, h):\n    x = Helper.half(doubled(w))\n    return x * h * len(TABLE)", *context)
    list(assemble.assemble(folder))
    flat = text(folder, "flat")
    assert run(folder, "my_bert.area(2, 3), my_bert.YOURS") == "6 ('area', 'volume')"
    assert "import math as m\nfrom operator import mul\n" in flat and "# kept" in flat
    assert not any(word in flat for word in ("never_run", "unused", "os.path", "tiny_check", "add"))


def test_a_build_that_needs_what_another_cell_computed_is_not_taken_and_the_name_is_told(folder, monkeypatch):
    solve(folder, "area", "global_one = [1][0] + 0\ndef area(w, h):\n    return w * h * global_one")
    list(assemble.assemble(folder))
    assert "area: the course's, for 02.1 uses `global_one`, which is no import, function or" in text(folder, "flat")
    assert run(folder, "my_bert.area(2, 3)") == "6"


@pytest.mark.parametrize(
    "source",
    [
        "def area(w, h):\n    while True: pass",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "from pathlib import Path\nPath('left.txt').write_text('x')\ndef area(w, h):\n    Path('too').mkdir()",
    ],
)
def test_a_build_that_hangs_ends_python_or_writes_files_does_no_harm(folder, source):
    solve(folder, "area", source)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    list(assemble.assemble(folder, limit=2))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["my_bert"]
    assert run(folder, "my_bert.volume(2, 3, 4), my_bert.YOURS") == "24 ('volume',)"


def test_an_edited_file_is_kept_and_the_new_one_is_laid_beside_it(folder):
    list(assemble.assemble(folder))
    mine = folder / "my_bert" / "flat.py"
    edited = text(folder, "flat").replace("w * h", "h * w  # mine")
    mine.write_text(edited, encoding="utf-8")
    assert [line.split()[0] for line in assemble.assemble(folder)] == ["offered", "as", "as"]
    assert text(folder, "flat") == edited and "w * h" in text(folder, "flat.new")
    solve(folder, "area", AREA.replace("w * h ", "w * h * 1 "))
    list(assemble.assemble(folder))
    assert text(folder, "flat") == edited and "w * h * 1 " in text(folder, "flat.new")  # an offer may be renewed
    (folder / "my_bert" / "flat.new.py").write_text("mine too", encoding="utf-8")
    assert next(iter(assemble.assemble(folder))).startswith("kept")
    assert text(folder, "flat") == edited and text(folder, "flat.new") == "mine too"
    mine.unlink()
    assert next(iter(assemble.assemble(folder))).startswith("made")


def test_two_helpers_of_one_name_do_not_replace_each_other(folder, tmp_path):
    for place in ("shipped", "ws"):
        cells = lesson(
            "volume", "03.1", "def volume(w, h, d):\n    return helper(w) * h * d", "def helper(x):\n    return x"
        )
        cells[2]["metadata"]["tags"][1] = "my-bert-flat"
        save(tmp_path / place / "03_volume.ipynb", cells)
    solve(folder, "area", "def area(w, h):\n    return helper(w * h)", "def helper(x):\n    return x + 0")
    list(assemble.assemble(folder))
    assert run(folder, "my_bert.area(2, 3), my_bert.volume(2, 3, 4), my_bert.YOURS") == "6 24 ('area', 'volume')"
    assert "x + 0" in text(folder, "flat") and "x + 0" not in text(folder, "flat_03")


def test_a_later_exercise_uses_the_courses_version_of_a_build_that_does_not_pass(folder, tmp_path):
    """In progress as in the notebook: `check.mine` stands between the two."""
    second = [code("double = area(2, 3) * 2", "exercise-02.2", id="d"), code("assert double == 12")]
    save(tmp_path / "shipped" / "02_area.ipynb", [*lesson("area", "02.1", AREA), *second])
    for source in (AREA, "def area(w, h): return 7", "import os; os._exit(0)", "def area(", ""):
        save(folder / "02_area.ipynb", [*lesson("area", "02.1", source), *second])
        row = next(row for row in progress.progress(folder) if row["lesson"] == "02_area.ipynb")
        assert row["exercises"][1]["status"] == "passes", source


def test_the_command_says_what_it_made_and_progress_whose_the_parts_are(folder, capsys):
    solve(folder, "area", "def area(w, h):\n    pass")
    assert cli.main(["assemble", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.count("made ") == 3 and "import my_bert" in out
    assert cli.main(["progress", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "my_bert: 1 of 2 parts are yours: volume" in out and "the course's stand in for area (blank)" in out
    assert cli.main(["progress", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["my_bert"] == {"area": "blank", "volume": "passes"}


def test_a_folder_without_lessons_is_one_sentence(folder, tmp_path, capsys):
    assert cli.main(["assemble", str(tmp_path / "nowhere")]) == 1
    assert "holds no lessons" in capsys.readouterr().err


# --- the whole way, with the course's own lessons ---------------------------------------------------------------------

TRAINS = """
import torch, my_bert, nextbert_lite as course

world = course.ToyWorld()
tokenizer = world.tokenizer()
config = course.EncoderConfig(tokenizer.vocab_size, dropout=0.1)

def batches(mask_tokens):
    def batch(step):
        ids, mask = world.sample_ids(16, seed=step)
        corrupted, labels = mask_tokens(ids, tokenizer, 0.5, course.seeded(0, step))
        return {"ids": corrupted, "labels": labels, "mask": mask}
    return batch

def trained(parts, train):
    torch.manual_seed(0)
    model = parts.MaskedLanguageModel(parts.Encoder(config))
    train(model, batches(parts.mask_tokens))
    return model.state_dict()

mine = trained(my_bert, lambda model, batch: my_bert.pretrain(model, batch, steps=12, lr=3e-3, warmup=4))
theirs = trained(course, lambda model, batch: course.fit(
    model, batch, steps=12, lr=3e-3, warmup=4, seed=None, device="cpu", progress=False))
assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)
"""
BLANK = ("04_the_encoder", "05_masking")


@pytest.mark.parametrize("last, blank", [("24", ()), ("06", BLANK)], ids=["all solved", "half solved, as far as 06"])
def test_what_a_learner_built_trains_on_the_toy_world_as_the_package_does_bit_for_bit(last, blank, tmp_path):
    names = set()
    for path in (path for path in lessons.find_lessons() if path.stem[:2] <= last):
        if builds := progress.continues(progress.code_cells(path)):
            notebook = lessons.read_notebook(path)
            solved = lessons.learner_version(notebook) if path.stem in blank else notebook
            (tmp_path / path.name).write_text(json.dumps(solved), encoding="utf-8")
            names |= {name for name, _ in builds.values()}
    built = {"train", "learn_bpe", "encode_word", "scaled_dot_product_attention", "MultiHeadAttention", "EncoderLayer"}
    assert names >= built | {"Encoder", "mask_tokens", "MaskedLanguageModel", "pretrain"}
    list(assemble.assemble(tmp_path))
    gone = {"EncoderLayer", "Encoder", "mask_tokens", "MaskedLanguageModel"} if blank else set()
    assert set(ast.literal_eval(run(tmp_path, "my_bert.YOURS"))) == names - gone
    for name in gone:
        assert f"{name}: the course's, for 0" in text(tmp_path, "__init__")
    ended = subprocess.run([sys.executable, "-B", "-c", TRAINS], cwd=tmp_path, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
