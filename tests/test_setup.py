"""Installation: tools/setup_env.py, the Makefile, the pins, conda's file, what CI runs."""

import ast
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import nextbert_lite

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load("setup_env")
renew = load("renew_constraints")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder to install from, where neither an environment is really made nor pip really run."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0")
    venv = tmp_path / ".venv"
    site = venv / "lib" / f"python{THIS}" / "site-packages"
    here = SimpleNamespace(root=tmp_path, venv=venv, site=site, version=None, calls=[])

    def make(_):
        site.mkdir(parents=True, exist_ok=True)
        here.version = THIS
        here.calls.append("venv")

    monkeypatch.setattr(setup_env, "ROOT", str(tmp_path))
    monkeypatch.setattr(setup_env, "make_venv", make)
    monkeypatch.setattr(setup_env, "venv_python", lambda _: here.version)
    monkeypatch.setattr(setup_env, "repair_pip", lambda _: None)
    monkeypatch.setattr(
        setup_env, "install", lambda root, venv, extras, index: here.calls.append(("pip", sorted(extras), index))
    )
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: SimpleNamespace(free=100e9))
    return here


def refused(capsys, *arguments, status=1):
    """Run the set-up, which must fail with one sentence; return that."""
    assert setup_env.main(list(arguments)) == status
    err = capsys.readouterr().err
    assert err.startswith("setup: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


# What it says


def test_an_old_python_can_read_the_set_up_and_is_told_what_to_do(monkeypatch, capsys):
    text = (ROOT / "tools" / "setup_env.py").read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 6))
    text.encode("ascii")  # an old Python prints to an old terminal
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 8, 18))
    assert "Python 3.11 or newer is needed and this is 3.8" in (said := refused(capsys))
    assert "make lab PYTHON=python3.12" in said


def test_the_oldest_python_is_that_of_pyproject():
    assert PROJECT["requires-python"] == f">={setup_env.dotted(setup_env.OLDEST)}"


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_which_package_has_it(monkeypatch, capsys, project, module):
    monkeypatch.setattr(setup_env, "make_venv", load("setup_env").make_venv)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    monkeypatch.setattr(setup_env, "Trouble", setup_env.make_venv.__globals__["Trouble"])
    assert f"apt install python{THIS}-venv" in refused(capsys)


def test_too_small_a_disk_is_refused_before_anything_is_made(monkeypatch, capsys, project):
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.25e9))
    assert "3.0 GB of disk space are needed here and 1.2 GB are free" in refused(capsys)
    assert not project.venv.exists() and project.calls == []


def test_what_is_installed_already_needs_no_space_again(monkeypatch, project):
    project.site.mkdir(parents=True)
    with open(project.site / "torch.so", "wb") as file:
        file.truncate(2_000_000_000)  # a sparse file: no bytes on the disk
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.25e9))
    assert setup_env.main([]) == 0


def test_a_folder_or_a_venv_that_cannot_be_written_is_one_sentence(monkeypatch, capsys, project):
    monkeypatch.setattr(setup_env.os, "access", lambda *_: False)
    assert "clone the project into a folder of your own" in refused(capsys)
    monkeypatch.undo()
    with pytest.raises(setup_env.Trouble, match="is not a folder"):
        setup_env.check_folder(str(ROOT), str(ROOT / "LICENSE"))


def test_any_other_refusal_of_the_system_is_one_sentence(monkeypatch, capsys, project):
    def refuse(_):
        raise OSError(5, "Input/output error", "a file")

    monkeypatch.setattr(setup_env, "make_venv", refuse)
    assert "a file: Input/output error" in refused(capsys)


def test_ctrl_c_says_that_a_repeat_continues(monkeypatch, capsys, project):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "install", interrupt)
    assert "repeat the command and it continues" in refused(capsys, status=130)
    assert not setup_env.read_stamp(str(project.venv))


class Pip:
    """Stands for a process of pip: what it prints and how it ends."""

    def __init__(self, text, returncode):
        self.stdout, self.returncode = io.BytesIO(text.encode()), returncode

    def __call__(self, command, **options):
        self.command, self.options = command, options
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


FAILURES = {
    "a full disk": ("ERROR: an OSError: [Errno 28] No space left on device", "the disk is full"),
    "no network": (
        "WARNING: Retrying (Retry(total=0)) after connection broken\nERROR: No matching",
        "check the network",
    ),
    "a file in use": ("ERROR: [Errno 13] Permission denied: 'x'", "stop JupyterLab"),
    "anything else": ("something else", "Repeat the command: it continues"),
}


@pytest.mark.parametrize(("output", "advice"), FAILURES.values(), ids=FAILURES)
def test_a_failure_of_pip_is_told_in_one_sentence_below_pips_own_errors(monkeypatch, capsys, tmp_path, output, advice):
    monkeypatch.setattr(setup_env.subprocess, "Popen", Pip(output, 1))
    with pytest.raises(setup_env.Trouble, match=advice) as trouble:
        setup_env.install(str(tmp_path), str(tmp_path / ".venv"), set(), "")
    assert "\n" not in str(trouble.value)
    assert output.splitlines()[-1] in capsys.readouterr().out


def test_pip_installs_the_project_with_the_constraints_and_nowhere_else(monkeypatch, capsys, tmp_path):
    pip = Pip("Collecting torch\n  Downloading torch-2.13.0.whl (187.4 MB)\nDownloading tqdm.whl (78 kB)\n", 0)
    monkeypatch.setattr(setup_env.subprocess, "Popen", pip)
    monkeypatch.setenv("PIP_TARGET", "elsewhere")
    setup_env.install(str(tmp_path), str(tmp_path / ".venv"), {"test", "book"}, "an-index")
    assert pip.command[0].startswith(str(tmp_path / ".venv"))
    assert [pip.command[pip.command.index(key) + 1] for key in ("-c", "-e", "--extra-index-url")] == [
        "constraints.txt",
        ".[book,test]",
        "an-index",
    ]
    assert "PIP_TARGET" not in pip.options["env"]
    out = capsys.readouterr().out
    assert "torch-2.13.0.whl (187.4 MB)" in out and "tqdm" not in out


# What it does


def test_the_second_set_up_does_nothing_and_says_nothing(project, capsys):
    assert setup_env.main(["--extra", "test"]) == 0
    assert project.calls == ["venv", ("pip", ["test"], "")]
    capsys.readouterr()
    assert setup_env.main(["--extra", "test"]) == 0
    assert setup_env.main([]) == 0  # less than what is there
    assert len(project.calls) == 2
    assert capsys.readouterr() == ("", "")


def test_a_new_extra_is_added_to_those_that_are_there(project):
    setup_env.main(["--extra", "test"])
    setup_env.main(["--extra", "book", "--torch-index", "an-index"])
    assert project.calls[2:] == [("pip", ["book", "test"], "an-index")]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_project_is_installed_again_with_the_extras_it_had(project, name):
    setup_env.main(["--extra", "test"])
    (project.root / name).write_text("changed")
    setup_env.main([])
    assert project.calls[2:] == [("pip", ["test"], "")]


def test_a_moved_project_is_installed_again(project, monkeypatch, tmp_path_factory):
    setup_env.main([])
    moved = tmp_path_factory.mktemp("moved") / "project"
    shutil.copytree(project.root, moved)
    monkeypatch.setattr(setup_env, "ROOT", str(moved))
    setup_env.main([])
    assert project.calls == ["venv", ("pip", [], ""), ("pip", [], "")]


def test_an_interrupted_installation_continues_in_the_same_environment(project, monkeypatch):
    install = setup_env.install
    monkeypatch.setattr(setup_env, "install", lambda *_: (_ for _ in ()).throw(setup_env.Trouble("no network")))
    assert setup_env.main([]) == 1
    monkeypatch.setattr(setup_env, "install", install)
    assert setup_env.main([]) == 0
    assert project.calls == ["venv", ("pip", [], "")]


def test_an_interrupted_update_is_not_taken_for_done_when_the_change_is_taken_back(project, monkeypatch):
    setup_env.main(["--extra", "test"])
    install = setup_env.install
    monkeypatch.setattr(setup_env, "install", lambda *_: (_ for _ in ()).throw(setup_env.Trouble("no network")))
    text = (project.root / "constraints.txt").read_text()
    (project.root / "constraints.txt").write_text("torch==2.14.0")
    assert setup_env.main([]) == 1
    (project.root / "constraints.txt").write_text(text)
    monkeypatch.setattr(setup_env, "install", install)
    assert setup_env.main([]) == 0
    assert project.calls == ["venv", ("pip", ["test"], ""), ("pip", ["test"], "")]


def test_an_environment_whose_python_does_not_run_is_made_again(project):
    setup_env.main([])
    project.version = None
    setup_env.main([])
    assert project.calls == ["venv", ("pip", [], "")] * 2


def test_another_python_keeps_the_environment_and_an_old_one_is_not_used(project, capsys):
    setup_env.main([])
    project.version = "3.99"
    assert setup_env.main([]) == 0
    assert "has Python 3.99 and is kept" in capsys.readouterr().out
    assert project.calls.count("venv") == 1
    project.version = "3.8"
    assert "delete the folder .venv" in refused(capsys)


def test_a_package_that_pip_was_writing_when_it_was_stopped_is_installed_again(project):
    for name, complete in (("whole-1.0.dist-info", True), ("half-1.0.dist-info", False)):
        (project.site / name).mkdir(parents=True)
        (project.site / name / "METADATA").write_text("")
        if complete:
            (project.site / name / "RECORD").write_text("")
    setup_env.main([])
    assert [path.name for path in project.site.iterdir()] == ["whole-1.0.dist-info"]


@pytest.fixture(scope="module")
def real_venv(tmp_path_factory):
    """A real environment, made by a set-up whose pip is not run."""
    venv = tmp_path_factory.mktemp("real") / ".venv"
    setup_env.make_venv(str(venv))
    return venv


def test_a_real_environment_is_made_and_known_by_its_python(real_venv):
    assert setup_env.venv_python(str(real_venv)) == THIS
    assert setup_env.repair_pip(str(real_venv)) is None


def test_an_environment_is_not_trusted_without_its_own_python(real_venv, tmp_path):
    assert setup_env.venv_python(str(tmp_path / "none")) is None
    config = real_venv / "pyvenv.cfg"
    text = config.read_text()
    try:
        config.write_text(re.sub(r"(?m)^version = .*$", "version = 3.2.1", text))
        assert setup_env.venv_python(str(real_venv)) is None  # its packages are another Python's
        config.unlink()
        assert setup_env.venv_python(str(real_venv)) is None  # it would install into the Python that made it
    finally:
        config.write_text(text)


def test_an_environment_that_lost_its_pip_gets_it_back(real_venv):
    (pip,) = (path for path in real_venv.rglob("pip") if path.parent.name == "site-packages")
    shutil.rmtree(pip)
    for info in pip.parent.glob("pip-*"):
        shutil.rmtree(info)
    setup_env.repair_pip(str(real_venv))
    assert pip.is_dir()


# The files


def test_every_dependency_is_pinned_within_its_range():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)  # no path, no local label
    pins = dict(line.split("==") for line in lines)
    assert list(pins) == sorted(pins) and len(pins) == len(lines)
    for requirement in renew.declared(ROOT):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
    assert pins["torch"] == "2.13.0"
    assert not {"pip", "setuptools", "nextbert-lite"} & set(pins)


def test_the_pins_are_renewed_from_what_is_installed():
    found = renew.pins([Requirement("jupyterlab"), Requirement("torch"), Requirement("nothing; python_version < '3'")])
    assert {"jupyterlab", "jupyter-server", "torch", "sympy"} <= set(found) and "nothing" not in found
    assert "+" not in found["torch"]
    assert renew.text({"a": "1.0"}).endswith("\na==1.0\n")
    assert (ROOT / "constraints.txt").read_text().startswith(renew.HEADER)


def differences(environment, project):
    """Return how conda's file would install something else than `pip install -c constraints.txt -e .` does."""
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = [line for entry in environment["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
    python = [entry.removeprefix("python=") for entry in plain if entry.startswith("python=")]
    found = []
    if len(python) != 1 or not SpecifierSet(project["requires-python"]).contains(python[0]):
        found.append(f"python: {python}, but pyproject.toml asks for {project['requires-python']}")
    if sorted(pip) != ["-c constraints.txt", "-e ."]:  # then names and ranges are those of pyproject.toml itself
        found.append(f"pip: {pip}")
    if {entry for entry in plain if not entry.startswith("python=")} != {"pip"}:
        found.append(f"conda: {plain}")
    return found


def test_condas_file_is_the_same_installation_as_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert differences(environment, PROJECT) == []
    assert (ROOT / "constraints.txt").is_file()


PINNED = ["-c constraints.txt", "-e ."]
OTHERS = {
    "an old Python": ["python=3.10", "pip", {"pip": PINNED}],
    "no Python": ["pip", {"pip": PINNED}],
    "no constraints": ["python=3.12", "pip", {"pip": ["-e ."]}],
    "not the project": ["python=3.12", "pip", {"pip": ["-c constraints.txt", "torch>=2.6"]}],
    "one package more": ["python=3.12", "pip", {"pip": [*PINNED, "pandas"]}],
    "one package of conda's": ["python=3.12", "pip", "numpy>=1", {"pip": PINNED}],
}


@pytest.mark.parametrize("dependencies", OTHERS.values(), ids=OTHERS)
def test_a_conda_file_that_installs_something_else_is_noticed(dependencies):
    assert differences({"dependencies": dependencies}, PROJECT)


def make(*arguments):
    # without what an outer `make test` hands down, which would add lines to the output
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_make_alone_explains_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", text)
    assert set(phony.split()) == set(re.findall(r"(?m)^([a-z-]+):$", text))
    shown = make()
    assert shown.returncode == 0 and shown.stderr == ""
    for target in phony.split():
        assert re.search(rf"(?m)^make {target}( LESSON=02)? {{2,}}\S", shown.stdout), target


@needs_make
def test_make_test_is_lint_and_one_pytest_with_every_lesson():
    plan = make("-n", "test", "PYTHON=python").stdout
    assert re.search(r"setup_env.py  --extra test$", plan, re.MULTILINE)  # and no other extra
    assert "ruff check ." in plan and "ruff format --check ." in plan
    (line,) = (line for line in plan.splitlines() if "-m pytest" in line)
    assert "TQDM_DISABLE=1" in line and "--nbval-lax --nbval-cell-timeout=300" in line and line.endswith(" tests")
    assert plan.splitlines()[-1] == line  # pytest's own line closes it
    for path in ROOT.glob("notebooks/*.ipynb"):
        assert path.name in line


@needs_make
def test_make_test_extras_installs_every_extra_that_a_test_skips_without():
    plan = make("-n", "test-extras", "PYTHON=python").stdout
    assert "setup_env.py  --extra test --extra book --extra browser --extra stream" in plan
    line = plan.splitlines()[-1]
    assert "-m pytest -n 2 --dist loadfile" in line and line.endswith(
        "tests/test_book.py tests/browser tests/test_streams.py"
    )
    assert "setup_env.py  --extra test --extra grade" in make("-n", "test-slow", "PYTHON=python").stdout


@needs_make
def test_make_passes_on_what_it_is_given():
    assert "--torch-index URL" in make("-n", "lab", "TORCH_INDEX=URL").stdout
    assert "start workspace -- --no-browser" in make("-n", "lab", "LAB=-- --no-browser").stdout
    assert "demo --minutes 1" in make("-n", "demo", "DEMO=--minutes 1").stdout
    assert "build --only 02 --times" in make("-n", "notebooks", "ONLY=02", "TIMES=1").stdout
    no_lesson = make("-n", "test", "LESSON=98")
    assert no_lesson.returncode and "there is no lesson '98'" in no_lesson.stderr


@needs_make
def test_make_without_a_python_says_which_one_to_name():
    failed = make("lab", "PYTHON=python-that-is-not-here")
    assert failed.returncode and "make lab PYTHON=python3.12" in failed.stdout


def test_ci_runs_what_everybody_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail" and commands[-1] == "make test-extras"
    assert commands[2:4] == ["rm -rf .venv", "make test"]  # first, and with nothing but what it installs
    assert os.name == "nt" or os.access(ROOT / ".ci" / "run", os.X_OK)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    job, extras = workflow["jobs"]["test"], workflow["jobs"]["extras"]
    assert "make test" in [step.get("run") for step in job["steps"]]
    assert "make test-extras" in [step.get("run") for step in extras["steps"]]
    assert {"3.11", "3.12", "3.13"} == set(job["strategy"]["matrix"]["python"])
    assert {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}


def test_one_version_and_one_licence_are_named_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == str(citation["version"]) == nextbert_lite.__version__
    assert PROJECT["license"] == " AND ".join(citation["license"])
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in text and "https://creativecommons.org/licenses/by/4.0/" in text


def test_the_stamp_is_plain_and_a_broken_one_counts_as_none(tmp_path):
    setup_env.write_stamp(str(tmp_path), {"extras": ["test"]})
    assert json.loads((tmp_path / "nextbert_lite.json").read_text()) == {"extras": ["test"]}
    for broken in ("", "[]", '{"extras": 3}'):
        (tmp_path / "nextbert_lite.json").write_text(broken)
        assert setup_env.read_stamp(str(tmp_path)) == {}
