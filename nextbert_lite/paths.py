"""Where the course's own files lie: in a clone beside the package, in an installed wheel inside it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def share_dir(name: str) -> Path:
    """Return the folder `data` or `notebooks`, from the wheel or from the clone.

    Raises FileNotFoundError, which says how to install, when neither has it.
    """
    for folder in (PACKAGE / "_share" / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the course's folder '{name}' is missing beside {PACKAGE}. "
        "Install the wheel (pip install nextbert-lite) or clone the project and run `pip install -e .` in it."
    )
