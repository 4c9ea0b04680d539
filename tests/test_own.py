"""Lesson 24: the package my_bert that a folder of notebooks has, or gets, and the lesson that runs on it."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from nextbert_lite.checks import lesson_24
from nextbert_lite.course import assemble, progress, workspace
from nextbert_lite.files import share_dir


@pytest.fixture(autouse=True)
def forgotten():
    """No test leaves its my_bert among the imported modules."""
    path = list(sys.path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_bert"]:
        del sys.modules[name]
    assert sys.path == path


def package(folder, text, **files):
    """Write a my_bert by hand; what lesson 24 needs is the course's."""
    home = folder / "my_bert"
    home.mkdir()
    names = ", ".join(lesson_24.NEEDED)
    (home / "__init__.py").write_text(text.replace("NEEDED", names), encoding="utf-8")
    for name, content in files.items():
        (home / f"{name}.py").write_text(content, encoding="utf-8")


def test_a_workspace_of_blank_builds_is_collected_without_running_any_of_them(tmp_path, monkeypatch, capsys):
    workspace.prepare(tmp_path)
    monkeypatch.setattr(progress, "results", lambda *_: pytest.fail("a blank lesson was run"))
    mine = lesson_24.my_package(tmp_path)
    out = capsys.readouterr().out
    assert mine.YOURS == () and Path(mine.__file__).parent == tmp_path.resolve() / "my_bert"
    assert "Collecting your builds" in out and "my_bert: 0 of" in out
    assert all(hasattr(mine, name) for name in lesson_24.NEEDED)
    assert lesson_24.run_file(mine, 3, by_a_learner) == tmp_path.resolve() / "my_bert_run_3.pt"


def by_a_learner(model, batches, steps, lr, warmup, path, every=100, stop=None):
    """A resumable run whose file has a form of its own."""
    return lesson_24.with_a_scheduler(model, batches, steps, lr, warmup, path, every, stop)


@pytest.mark.parametrize("first, then", [("course", "mine"), ("mine", "course")])
def test_a_run_of_the_courses_function_and_one_of_the_learners_never_meet_in_one_file(first, then, tmp_path):
    (tmp_path / "my_bert").mkdir()
    package = SimpleNamespace(__file__=str(tmp_path / "my_bert" / "__init__.py"))
    functions = {"course": lesson_24.resumable_run.course, "mine": by_a_learner}
    x = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(0))
    files = []
    for whose in (first, then):
        files.append(lesson_24.run_file(package, 0, functions[whose]))
        assert not files[-1].exists() and files[-1].parent.is_dir()
        for stop in (5, 12):
            plan = (12, 0.05, 4, files[-1], 4, stop)
            losses = functions[whose](lesson_24.Little(), lambda step: {"x": x[step]}, *plan)
        assert len(losses) == 12
    assert {file.parent == tmp_path.resolve() for file in files} == {True, False}


def test_a_build_that_differs_from_the_blank_in_any_way_is_run(tmp_path):
    workspace.prepare(tmp_path)
    path = tmp_path / "02_attention.ipynb"
    (shipped,) = (p for p in workspace.find_lessons() if p.name == path.name)
    cells = progress.code_cells(shipped)
    assert progress.all_blank(cells, progress.code_cells(path))
    notebook = json.loads(path.read_text(encoding="utf-8"))
    (cell,) = (c for c in notebook["cells"] if "exercise-02.5" in c["metadata"].get("tags", []))
    text = "".join(cell["source"])
    for other in (text.replace("pass  # your", "pass  # not your"), text + "\nx = 1", ""):
        cell["source"] = other
        path.write_text(json.dumps(notebook), encoding="utf-8")
        assert not progress.all_blank(cells, progress.code_cells(path))


def test_outside_of_a_workspace_all_parts_are_the_courses_and_nothing_is_written(tmp_path, capsys):
    before = sorted(os.listdir(share_dir("notebooks")))
    for folder in (tmp_path, share_dir("notebooks")):
        mine = lesson_24.my_package(folder)
        assert mine.YOURS == () and not Path(mine.__file__).is_relative_to(folder.resolve())
        assert "no workspace" in capsys.readouterr().out
        for function in (by_a_learner, lesson_24.resumable_run.course):
            assert not lesson_24.run_file(mine, 0, function).is_relative_to(folder.resolve())
    assert not list(tmp_path.iterdir()) and sorted(os.listdir(share_dir("notebooks"))) == before


IMPORTS = """
from nextbert_lite import *
from nextbert_lite.checks.lesson_06 import pretrain
from nextbert_lite.checks.lesson_12 import BM25
from nextbert_lite.checks.lesson_13 import train_with_early_stopping
from nextbert_lite.checks.lesson_14 import load_bert
YOURS = ('Encoder',)
"""


def test_a_my_bert_that_is_there_is_taken_as_it_is_and_an_edited_file_is_told(tmp_path, capsys):
    package(tmp_path, assemble.stamp(IMPORTS), mine="x = 1")
    content = {path.name: path.read_bytes() for path in (tmp_path / "my_bert").iterdir() if path.is_file()}
    mine = lesson_24.my_package(tmp_path)
    out = capsys.readouterr().out
    assert mine.YOURS == ("Encoder",) and "You edited mine.py" in out and "newer" not in out
    assert {path.name: path.read_bytes() for path in (tmp_path / "my_bert").glob("*.py")} == content


def test_a_notebook_that_is_newer_than_my_bert_is_told(tmp_path, capsys):
    workspace.prepare(tmp_path)
    package(tmp_path, assemble.stamp(IMPORTS))
    os.utime(tmp_path / "my_bert" / "__init__.py", (1, 1))
    lesson_24.my_package(tmp_path)
    assert "newer than my_bert" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, why",
    [("import nothing_of_this_name", "ModuleNotFoundError"), ("YOURS = ()", "lacks scaled_dot_product_attention")],
)
def test_a_my_bert_that_cannot_be_used_is_told_and_the_courses_parts_stand_in(text, why, tmp_path, capsys):
    package(tmp_path, text)
    mine = lesson_24.my_package(tmp_path)
    assert why in capsys.readouterr().out and all(hasattr(mine, name) for name in lesson_24.NEEDED)
    assert (tmp_path / "my_bert" / "__init__.py").read_text(encoding="utf-8") == text


def test_another_librarys_parameters_are_shared_under_our_names_also_by_a_copy():
    import copy

    renamed = lesson_24.under_our_names(
        torch.nn.Linear(2, 3), {"part.out.weight": "weight", "part.out.bias": "bias"}, lambda part, x: part(x)
    )
    assert set(dict(renamed.named_parameters())) == {"part.out.weight", "part.out.bias"}
    twin = copy.deepcopy(renamed).double()
    with torch.no_grad():
        twin.part.out.weight.zero_()
        twin.part.out.bias.fill_(2.0)
    assert torch.equal(twin(torch.ones(1, 2).double()), torch.full((1, 3), 2.0).double())
    assert not torch.equal(renamed(torch.ones(1, 2)), torch.full((1, 3), 2.0))
    weights = {"part.out.weight": torch.ones(3, 2), "part.out.bias": torch.zeros(3)}
    assert torch.equal(torch.func.functional_call(renamed, weights, (torch.ones(1, 2),)), torch.full((1, 3), 2.0))


@pytest.mark.parametrize("letter", "ABCDE")
def test_each_package_of_exercise_2_has_one_fault_that_no_shape_shows(letter):
    from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel

    faulty, config = lesson_24.package(letter), EncoderConfig(20, width=8, layers=1, heads=2, ffn_width=16, max_len=6)
    torch.manual_seed(0)
    right = MaskedLanguageModel(Encoder(config))
    model = faulty.MaskedLanguageModel(faulty.Encoder(config))
    assert model.state_dict().keys() == right.state_dict().keys()
    for p in right.parameters():
        torch.nn.init.normal_(p)
    model.load_state_dict(right.state_dict())
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    labels = torch.where(ids % 2 == 1, ids, -100)
    (ours, inside), (theirs, wanted) = (m.encoder(ids, return_inside=True) for m in (model, right))
    assert ours.shape == theirs.shape and inside.weights[0].shape == wanted.weights[0].shape
    same = [torch.allclose(ours, theirs), torch.allclose(model.loss(ids, labels), right.loss(ids, labels))]
    assert same == {"C": [True, False], "E": [False, True]}.get(letter, [False, False])


# --- the whole lesson in a learner's workspace ------------------------------------------------------------------------


def executed(folder):
    """Run the copy of lesson 24 that lies in a folder, and return what it printed."""
    (path,) = folder.glob("24_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}})
    client.execute(env=dict(os.environ, TQDM_DISABLE="1"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in code for output in cell.outputs)


@pytest.mark.slow
def test_lesson_24_in_a_blank_workspace_runs_to_its_end_on_the_courses_parts(tmp_path, monkeypatch):
    monkeypatch.delenv("NEXTBERT_GRADE", raising=False)
    workspace.prepare(tmp_path)
    printed = executed(tmp_path)
    assert "my_bert: 0 of" in printed and "Encoder                        the course's" in printed
    assert "your run so far: 300 of 9,000 steps" in printed and not list(tmp_path.glob("*.pt"))
    assert "fine-tuned − TF-IDF" in printed
    (solved,) = (path for path in workspace.find_lessons() if path.name.startswith("24_"))
    (tmp_path / solved.name).write_bytes(solved.read_bytes())
    for time in ("first", "second"):  # then the learner solves lesson 24, and runs it twice
        printed = executed(tmp_path)
        assert "your run so far: 300 of 9,000 steps" in printed and (tmp_path / "my_bert_run_0.pt").is_file()
        assert ("bits are not compared" in printed) == (time == "second")


@pytest.mark.slow
def test_lesson_24_in_a_solved_workspace_runs_on_the_learners_parts(tmp_path):
    solved = ("02", "03", "04", "05", "06", "24")
    workspace.prepare(tmp_path)
    for path in workspace.find_lessons():
        if path.name.startswith(solved):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    printed = executed(tmp_path)
    for name in ("scaled_dot_product_attention", "MultiHeadAttention", "Encoder", "mask_tokens", "pretrain"):
        assert f"{name:<30} yours\n" in printed
    assert f"{'BM25':<30} the course's\n" in printed
    assert "300 steps in two pieces and in one, the same weights in every bit: True" in printed
    text = (tmp_path / "my_bert" / "training.py").read_text(encoding="utf-8")
    assert "pretrain: yours." in text and "pretrain_resumable: yours." in text
