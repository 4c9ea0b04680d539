"""JupyterLab as `make lab` starts it, in a real browser: a lesson runs, a check names a mistake, a view answers."""

import os
import socket
import subprocess
import sys
import threading
from collections import deque

import nbformat
import pytest
from visits import ROOT

from nextbert_lite.checks import lesson_00
from nextbert_lite.course import workspace as lessons

SETTINGS = '{"windowingMode": "none"}'  # all cells are in the page, also those out of sight
RIGHT = lessons.solution("00.1")
WRONG = RIGHT.replace("dim=-1", "dim=0")
VIEW = """import torch

from nextbert_lite import AttentionExplorer, show

tokens = "the cook praises the waiters".split()
weights = torch.eye(5).roll(1, dims=0)[None, None]  # each token looks at the one before it
view = AttentionExplorer(tokens, weights, title="Each token looks at the one before it")
show(view, alt="One head on five tokens; each token looks at the one before it, the first at the last.")"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory, browser):
    """JupyterLab on a workspace of its own, for this machine only; returns its address and the folder."""
    folder = tmp_path_factory.mktemp("lab")
    workspace = folder / "workspace"
    for name in ("config", "settings", "workspaces"):
        (folder / name).mkdir()
    tracker = folder / "settings" / "@jupyterlab" / "notebook-extension"
    tracker.mkdir(parents=True)
    (tracker / "tracker.jupyterlab-settings").write_text(SETTINGS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "nextbert_lite", "start", str(workspace), "--port", str(port), "--"]
    command += ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.token=", "--ServerApp.password="]
    command += [f"--LabApp.user_settings_dir={folder / 'settings'}", f"--LabApp.workspaces_dir={folder / 'workspaces'}"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as server:
        said = []
        for line in server.stdout:
            said.append(line)
            if f"http://127.0.0.1:{port}/" in line:
                break
        else:
            pytest.fail("JupyterLab did not start:\n" + "".join(said))
        reader = threading.Thread(target=deque, args=(server.stdout, 0))  # what it says later would fill the pipe
        reader.start()
        yield f"http://127.0.0.1:{port}", workspace
        server.terminate()
        reader.join()


@pytest.fixture
def notebook(lab, visit):
    """Return a function that opens a notebook of the workspace, with its kernel ready; no request may leave here."""
    visits = []

    def open_notebook(name):
        own = name.split(".")[0]  # a layout of its own: JupyterLab would open the last test's notebook beside it
        visits.append(visit(f"{lab[0]}/lab/workspaces/{own}/tree/{name}", width=1400))
        page = visits[-1].page
        page.set_default_timeout(120_000)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        return page

    yield open_notebook
    assert [fault for one in visits for fault in one.faults if fault.startswith("left for")] == []


def run_all(page):
    """Run all cells and wait until the last one has its number: they run in order, and an error would stop them."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];  // those of folded code too
            return prompts.length && /^\\[\\d+\\]:$/.test(prompts.at(-1).textContent);
        }"""
    )


def cell_with(page, text):
    """Return the code cell that holds a text."""
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=text)).first


def write_and_run(page, cell, text):
    """Put a text into a cell, run it, and run the cell below it, the check; return when both have run."""
    check = page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text="check.row_means(row_means)"))
    before = check.locator(".jp-InputPrompt").text_content()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        "([prompt, before]) => /^\\[\\d+\\]:$/.test(prompt.textContent) && prompt.textContent !== before",
        arg=[check.locator(".jp-InputPrompt").element_handle(), before],
    )
    return check.locator(".jp-OutputArea")


def test_lesson_00_opens_runs_to_its_end_and_its_check_names_a_mistake_and_praises_the_right_answer(notebook):
    page = notebook("00_start_here.ipynb")
    run_all(page)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    answer = cell_with(page, "def row_means(x)")
    assert lessons.BLANK in answer.inner_text()
    mistake = next(one for one in lesson_00.row_means.mistakes if one.name == "of the columns")
    said = write_and_run(page, answer, WRONG)
    said.get_by_text(mistake.message[:60]).wait_for()
    assert "CheckFailed: 00.1:" in said.inner_text() and "Traceback" not in said.inner_text()
    said = write_and_run(page, answer, RIGHT)
    said.get_by_text("✓ 00.1 is right.").wait_for()
    assert "CheckFailed" not in said.inner_text()


def test_a_view_answers_to_the_pointer_and_to_the_keyboard_and_tells_the_kernel(notebook, lab):
    cells = [nbformat.v4.new_code_cell(VIEW), nbformat.v4.new_code_cell("print('token', view.token)")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab[1] / "view.ipynb")
    page = notebook("view.ipynb")
    run_all(page)
    view = page.locator(".jp-OutputArea .nbx")
    view.wait_for()
    page.get_by_text("token 0", exact=True).wait_for()
    chips = view.locator(".nbx-tokens button")
    chips.nth(2).hover()
    view.locator(".nbx-status").get_by_text("cook 1.00").wait_for()
    chips.nth(0).focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    view.locator(".nbx-status").get_by_text("the 1.00").wait_for()
    cell_with(page, "print('token'").locator(".cm-content").click()  # this cell alone: the view stays
    page.keyboard.press("Control+Enter")
    page.get_by_text("token 4", exact=True).wait_for()
