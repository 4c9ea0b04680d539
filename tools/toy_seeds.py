"""Train two more models like toy-small, of other seeds, and write what they can do into toy-small's card.

python tools/toy_seeds.py [options of `nextbert-lite pretrain`, those of toy-small]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from nextbert_lite.files import share_dir
from nextbert_lite.use import checkpoints

SEEDS = (1, 2)
FOLDER = share_dir("data") / "checkpoints" / "toy-small"


def main(options: list[str]) -> None:
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        for seed in SEEDS:
            out = Path(place) / f"seed{seed}"
            command = [sys.executable, "-m", "nextbert_lite", "pretrain", "--corpus", "toy", *options]
            subprocess.run([*command, "--seed", str(seed), "--out", str(out)], check=True)
            held_out = checkpoints.read_card(out)["held_out"]
            figures[str(seed)] = {
                key: held_out[key] for key in ("loss", "gap_to_floor", "gap_standard_error", "skills")
            }
    model, tokenizer = checkpoints.load(FOLDER)
    card = checkpoints.read_card(FOLDER)
    card["held_out"]["other_seeds"] = figures
    checkpoints.save(FOLDER, model, tokenizer, card)


if __name__ == "__main__":
    main(sys.argv[1:])
