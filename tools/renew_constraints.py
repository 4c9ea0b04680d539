"""Write constraints.txt anew: the version, in this environment, of all that the project and its extras need.

    .venv/bin/python tools/renew_constraints.py

Run it after a change of pyproject.toml's packages, in an environment in which `make test` passes.
"""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
HEADER = """# The versions that `make test` passed with; pip takes them with -c constraints.txt. Written by:
#     .venv/bin/python tools/renew_constraints.py
"""


def declared(root=ROOT):
    """Return the requirements that pyproject.toml names, those of the extras among them."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]


def pins(requirements):
    """Return {name: version} of the installed packages that the requirements need, directly or through others."""
    found, todo = {}, [(requirement, "") for requirement in requirements]
    seen = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                package = distribution(name)
                found[name] = package.version.split("+")[0]  # 2.13.0+cpu and 2.13.0+cu128 are one version
                todo += [(Requirement(line), wanted) for line in package.requires or ()]
    return {name: found[name] for name in sorted(found) if name not in ("pip", "setuptools")}


def text(found):
    """Return the file's text."""
    return HEADER + "".join(f"{name}=={version}\n" for name, version in found.items())


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(text(pins(declared())), encoding="utf-8", newline="\n")
