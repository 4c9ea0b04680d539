"""Make the folder .venv and install the course into it. `make` calls this; with nothing to do it ends at once.

    python3 tools/setup_env.py [--extra test] [--torch-index URL]

Standard library only, and no syntax that Python 3.6 cannot read: an old Python must get as far as the sentence that
says which one is needed. Trouble is one sentence that says what to do; a repeat of the command continues.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
SPACE = 3.0e9  # bytes: 1.5 GB installed, and as much again for what pip downloads and unpacks
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
KEPT_OUT = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")  # they would install somewhere else


class Trouble(Exception):
    """What keeps the course from being installed; its text is one sentence that says what to do."""


def main(arguments=None):
    """Bring .venv up to date; return the exit status."""
    parser = argparse.ArgumentParser(description="Make .venv and install the course into it.")
    parser.add_argument("--extra", action="append", default=[], help="an extra of pyproject.toml, such as test")
    parser.add_argument("--torch-index", default="", help="a further package index for PyTorch: " + CPU_INDEX)
    options = parser.parse_args(arguments)
    try:
        check_python(sys.version_info[:2])
        set_up(ROOT, set(options.extra), options.torch_index)
    except Trouble as trouble:
        print(f"setup: {trouble}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"setup: {error.filename}: {error.strerror}; put that right and repeat the command.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; repeat the command and it continues.", file=sys.stderr)
        return 130
    return 0


def check_python(version):
    """Refuse a Python that is too old."""
    if version < OLDEST:
        raise Trouble(
            f"Python {dotted(OLDEST)} or newer is needed and this is {dotted(version)}: install a newer one from "
            "https://www.python.org/downloads, or name one that you have: make lab PYTHON=python3.12"
        )


def set_up(root, extras, torch_index=""):
    """Make or repair root/.venv and install the project with these extras, unless all of that is done already."""
    venv = os.path.join(root, ".venv")
    inputs = fingerprint(root)
    stamp = read_stamp(venv)
    found = venv_python(venv)
    if stamp.get("inputs") == inputs and found == stamp.get("python") and extras <= set(stamp["extras"]):
        return
    check_folder(root, venv)
    check_space(root, venv)
    extras = extras | set(stamp.get("extras", []))
    if stamp:  # from here to the end it is not true
        write_stamp(venv, {"inputs": "", "extras": sorted(extras)})
    if found is None:
        make_venv(venv)
        found = venv_python(venv)
        if found is None:
            raise Trouble("the new .venv does not run: delete the folder .venv and repeat the command.")
    version = tuple(int(part) for part in found.split("."))
    if version < OLDEST:
        raise Trouble(
            f"the folder .venv here has Python {found}, and {dotted(OLDEST)} or newer is needed: "
            "delete the folder .venv and repeat the command."
        )
    if version != sys.version_info[:2]:
        print(f"The folder .venv has Python {found} and is kept. For {dotted(sys.version_info[:2])}, delete it first.")
    repair_pip(venv)
    forget_half_installed(venv)
    install(root, venv, extras, torch_index)
    write_stamp(venv, {"inputs": inputs, "python": found, "extras": sorted(extras)})


def fingerprint(root):
    """Return a hash of all that decides what is installed, and of the place, which the installed files name."""
    digest = hashlib.sha256(os.path.realpath(root).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        try:
            with open(os.path.join(root, name), "rb") as file:
                digest.update(file.read())
        except OSError as error:
            raise Trouble(f"{name} cannot be read ({error.strerror}): clone the project again.") from None
    return digest.hexdigest()


def stamp_path(venv):
    """Return the file that tells what was installed; its `inputs` are those of the last that went well."""
    return os.path.join(venv, "nextbert_lite.json")


def read_stamp(venv):
    """Return what was installed last, or an empty dict."""
    try:
        with open(stamp_path(venv), encoding="utf-8") as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and isinstance(stamp.get("extras"), list) else {}


def write_stamp(venv, stamp):
    """Note what is installed."""
    with open(stamp_path(venv), "w", encoding="utf-8") as file:
        json.dump(stamp, file)


def python_of(venv):
    """Return the path of the environment's Python."""
    return os.path.join(venv, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def venv_python(venv):
    """Return the version ("3.11") of the environment's Python, or None when it is missing, broken or not its own."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.prefix)"
    try:
        answer = subprocess.run([python_of(venv), "-I", "-c", ask], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        version, prefix = answer.stdout.decode(errors="replace").split("\n")[:2]
        own = os.path.samefile(prefix.strip(), venv)  # a half-made one runs as the Python that made it
    except (OSError, ValueError):
        return None
    changed = made_with(venv) not in (None, version.strip())  # the system's Python was upgraded below it
    return None if answer.returncode or not own or changed else version.strip()


def made_with(venv):
    """Return the version ("3.11") of the Python that made the environment, from its own file; None if unknown."""
    try:
        with open(os.path.join(venv, "pyvenv.cfg"), encoding="utf-8") as file:
            settings = dict(line.split("=", 1) for line in file if "=" in line)
    except (OSError, ValueError):
        return None
    version = {key.strip(): value.strip() for key, value in settings.items()}.get("version", "")
    return ".".join(version.split(".")[:2]) or None


def check_folder(root, venv):
    """Refuse a folder where nothing can be written."""
    if os.path.lexists(venv) and not os.path.isdir(venv):
        raise Trouble(f"{venv} is not a folder: move it away and repeat the command.")
    for folder in (root, venv):
        if os.path.isdir(folder) and not os.access(folder, os.W_OK):
            raise Trouble(f"you may not write in {folder}: clone the project into a folder of your own.")


def check_space(root, venv):
    """Refuse a disk without room for what is still to be installed."""
    free = shutil.disk_usage(root).free
    needed = max(SPACE - size(venv), 0.3e9)
    if free < needed:
        raise Trouble(
            f"{needed / 1e9:.1f} GB of disk space are needed here and {free / 1e9:.1f} GB are free: "
            "make room, or clone the project onto another disk, and repeat the command."
        )


def size(folder):
    """Return the bytes that a folder holds."""
    total = 0
    for parent, _, names in os.walk(folder):
        total += sum(os.lstat(os.path.join(parent, name)).st_size for name in names)
    return total


def make_venv(venv):
    """Make the environment, anew when there is one that does not run."""
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Trouble(
                f"this Python has no module {module}, so it cannot make .venv: install it (Debian, Ubuntu: "
                f"sudo apt install python{dotted(sys.version_info[:2])}-venv), or name another Python: "
                "make lab PYTHON=python3.12"
            )
    again = os.path.isdir(venv)
    print("Making .venv again: its Python does not run." if again else "Making .venv.", flush=True)
    command = [sys.executable, "-I", "-m", "venv", *(["--clear"] if again else []), venv]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["no message"]
        raise Trouble(f"Python could not make .venv ({lines[-1]}): delete the folder .venv and repeat the command.")


def repair_pip(venv):
    """Give pip to an environment whose making was interrupted."""
    python = python_of(venv)
    for command in (["pip", "--version"], ["ensurepip"], ["pip", "--version"]):
        done = subprocess.run([python, "-I", "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if command[0] == "pip" and done.returncode == 0:
            return
    raise Trouble("the folder .venv has no pip and none can be added: delete .venv and repeat the command.")


def site_packages(venv):
    """Return the folders that hold the environment's packages."""
    return [parent for parent, _, _ in os.walk(venv) if os.path.basename(parent) == "site-packages"]


def forget_half_installed(venv):
    """Make pip install again what it was writing when it was stopped: RECORD is the last file that it writes."""
    for folder in site_packages(venv):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name.endswith(".dist-info") and not os.path.exists(os.path.join(path, "RECORD")):
                shutil.rmtree(path)


def install(root, venv, extras, torch_index):
    """Run pip; show its large downloads and its own errors."""
    if any(os.path.isdir(os.path.join(folder, "torch")) for folder in site_packages(venv)):
        print("Bringing .venv up to date: about half a minute.", flush=True)
    else:
        print("Installing into .venv: about 2 minutes and 1.5 GB, PyTorch the largest part.", flush=True)
        if sys.platform.startswith("linux") and not torch_index and shutil.which("nvidia-smi") is None:
            print("  (If pip now takes a PyTorch of several GB: without an NVIDIA GPU, Ctrl-C and repeat")
            print(f"   with TORCH_INDEX={CPU_INDEX})", flush=True)
    project = "." + ("[{}]".format(",".join(sorted(extras))) if extras else "")
    command = [python_of(venv), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--no-input", "-c", "constraints.txt", "-e", project]
    command += ["--extra-index-url", torch_index] if torch_index else []
    environment = {key: value for key, value in os.environ.items() if key not in KEPT_OUT}
    errors = []
    text = []
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for raw in process.stdout:
            line = raw.decode(errors="replace").strip()
            text.append(line)
            if worth_showing(line):
                print("  " + line.split(": ")[0], flush=True)
            elif line.startswith("WARNING: Retrying"):
                print("  The network does not answer; pip tries again.", flush=True)
            elif line.startswith("ERROR"):
                errors.append(line)
    if process.returncode:
        print("\n".join("  " + line for line in errors or text[-5:]))
        raise Trouble(reason(text, project))
    print("Installed.", flush=True)


def worth_showing(line):
    """Tell whether a line of pip's is shown: the large downloads, and the last step, which takes long."""
    large = line.startswith("Downloading ") and (" MB)" in line or " GB)" in line)
    return large or line.startswith("Installing collected packages")


def reason(lines, project):
    """Return the sentence for what pip said before it failed."""
    text = "\n".join(lines)
    if "No space left on device" in text or "[Errno 28]" in text:
        return (
            "the disk is full, or the folder for temporary files is (TMPDIR names another): "
            "make room and repeat the command; it continues."
        )
    if "[Errno 13]" in text or "[WinError 5]" in text or "[WinError 32]" in text:
        return "pip may not write in .venv: stop JupyterLab if it runs from it, and repeat the command; it continues."
    if any(word in text for word in ("connection broken", "ConnectionError", "timed out", "Temporary failure")):
        return "pip could not reach the package index: check the network and repeat the command; it continues."
    return f"pip could not install {project}; its errors stand above. Repeat the command: it continues."


def dotted(version):
    """Return "3.11" for (3, 11)."""
    return ".".join(str(part) for part in version)


if __name__ == "__main__":
    sys.exit(main())
