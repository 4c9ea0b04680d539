"""The built wheel is the whole course: `nextbert-lite start` needs no clone, no make and no network."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.name for path in ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built with the hatchling that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", str(folder)]
    run(sys.executable, "-m", "pip", *build, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def run(*command, cwd, **environment):
    """Run a command away from the clone; return what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def committed(folder):
    """Return the files below a folder of the clone that git does not ignore, or all of them where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder], cwd=ROOT, capture_output=True
    )
    files = listed.stdout.decode().split("\n") if listed.returncode == 0 else []
    every = [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [name for name in files or every if name and (ROOT / name).is_file() and not Path(name).name.startswith(".")]


def test_the_wheel_carries_the_lessons_the_data_and_the_licence_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = [name for name in committed("notebooks") if not name.startswith("notebooks/source/")]
    assert {f"nextbert_lite/_share/{name}" for name in [*expected, *committed("data")]} <= names
    assert {name for name in committed("nextbert_lite") if name.endswith((".py", ".js", ".css"))} <= names
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"nextbert_lite"}
    for unwanted in ("notebooks/source", ".ipynb_checkpoints", "__pycache__", "tests/"):
        assert not [name for name in names if unwanted in name], unwanted


def test_start_from_the_wheel_alone_fills_a_workspace(wheel, tmp_path):
    """The clone is hidden: its editable installation sits in site-packages, after PYTHONPATH."""
    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    where = run(
        sys.executable, "-c", "import nextbert_lite; print(nextbert_lite.__file__)", cwd=away, PYTHONPATH=str(site)
    )
    assert Path(where.strip()).is_relative_to(site)
    if not LESSONS:
        pytest.skip("the clone has no lessons yet")
    command = [sys.executable, "-m", "nextbert_lite", "start", "workspace", "--no-open"]
    out = run(*command, cwd=away, PYTHONPATH=str(site))
    assert len(out.splitlines()) == len(LESSONS)
    assert sorted(path.name for path in (away / "workspace").iterdir()) == LESSONS
    for path in (away / "workspace").iterdir():
        assert "### BEGIN SOLUTION" not in path.read_text(encoding="utf-8")
    assert run(*command, cwd=away, PYTHONPATH=str(site)) == ""
    data = "from nextbert_lite.files import share_dir; print(share_dir('data'))"
    assert Path(run(sys.executable, "-c", data, cwd=away, PYTHONPATH=str(site)).strip()).is_relative_to(site)


@pytest.mark.slow
def test_a_fresh_environment_with_the_wheel_starts_the_course_and_runs_the_demo(wheel, tmp_path):
    """What someone without the clone does; needs the network, 2 minutes and 1.3 GB."""
    run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    scripts = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel), "-c", str(ROOT / "constraints.txt"), cwd=tmp_path)
    command = str(scripts / "nextbert-lite")
    assert "made" in run(command, "start", "workspace", "--no-open", cwd=tmp_path)
    kernels = json.loads(run(python, "-m", "jupyter", "kernelspec", "list", "--json", cwd=tmp_path))
    assert Path(kernels["kernelspecs"]["python3"]["resource_dir"]).is_relative_to(tmp_path / "fresh")
    run(command, "demo", "--minutes", "0.1", "--device", "cpu", cwd=tmp_path)
    assert list((tmp_path / "demo").glob("*.png"))
