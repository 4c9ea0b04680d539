"""What `pretrain` and `pairs` share: a run that goes on where it was stopped, and the card at its end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import date
from pathlib import Path

from torch import nn

from nextbert_lite.files import NEW, json_of, make_folder, settle, write_text
from nextbert_lite.training.distributed import drop_shards, join, on_first, together
from nextbert_lite.training.loop import History
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.use import checkpoints
from nextbert_lite.use.checkpoints import CARD, TOKENIZER, WEIGHTS
from nextbert_lite.validate import check_count

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None

RUN, TRAINING = "run.json", "training.safetensors"  # what an unfinished run needs to go on
PLACES = "stream.json"  # and where in its corpus each part begins, if that is streamed


def check_length(minutes: float | None, steps: int | None) -> None:
    """Raise ValueError unless a run is given either minutes or steps, and a number of them that can be trained."""
    if (minutes is None) == (steps is None):
        raise ValueError("give either minutes or steps.")
    if steps is not None:
        check_count("steps", steps)
    elif not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise ValueError(f"minutes is {minutes!r}; a training time is more than 0 and finite, such as 2 or 0.5.")


def unfinished(out: Path, options: dict, replace: bool) -> dict | None:
    """Return the plan of the unfinished run in the folder, or None for a folder that is free.

    Raises ValueError for a run with other options, FileExistsError for a folder with a model (unless it may be
    replaced) or with other files.
    """
    settle(out, CARD)
    if (out / RUN).is_file():
        try:
            run = json_of((out / RUN).read_text(encoding="utf-8"))
            sealed = run.pop("sha256", None)  # runs of the first edition have none
            if set(run) - {"tokenizer"} != {"options", "steps", "fingerprint"} or sealed not in (
                None,
                checkpoints.seal(run),
            ):
                raise ValueError
            stored = run["options"] | {"steps": run["steps"]}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{out / RUN} is damaged; delete it to start anew.") from None
        changed = [f"{k} was {stored.get(k)}, is now {v}" for k, v in options.items() if stored.get(k) != v]
        if changed:
            raise ValueError(
                f"{out} has an unfinished run with other settings: {', '.join(changed)}. Repeat its command to go on, "
                f"delete {out / RUN} and {out / TRAINING} to start anew, or name another folder."
            )
        return run
    if os.path.lexists(out) and not out.is_dir():
        what = "a link to nowhere" if out.is_symlink() else "a file"
        raise FileExistsError(f"{out} is {what}; name a folder for the checkpoint.")
    if (out / CARD).exists() and not replace:
        raise FileExistsError(f"{out} has a model already. Name another folder, or say --replace.")
    known = {CARD, WEIGHTS, TOKENIZER, TRAINING, PLACES}
    found = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    left = tuple(name for name in found if name.endswith((NEW, ".part")) or name.startswith(f"{TRAINING}.shards-"))
    others = [name for name in found if name not in known and name not in left]  # left: by a kill
    if others:
        raise FileExistsError(f"{out} has other files ({', '.join(others[:3])}); name a folder of its own.")
    return None


def begin(out: Path, plan: dict) -> None:
    """Write down what the run in the folder is: its options, steps, and the fingerprint of its corpus."""
    check_count("steps", plan["steps"])
    lr = plan["options"].get("lr", 1.0)
    if not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise ValueError(f"lr is {lr}; a learning rate is more than 0 and finite, such as 1e-3. Nothing was written.")
    for name in (TRAINING, PLACES):
        (out / name).unlink(missing_ok=True)  # of an earlier run: a kill may have left it
    drop_shards(out / TRAINING)
    write_text(out / RUN, json.dumps(plan | {"sha256": checkpoints.seal(plan)}))


def check_corpus(out: Path, run: dict, fingerprint: dict) -> None:
    """Raise ValueError when an unfinished run began with another corpus."""
    if run["fingerprint"] != fingerprint:
        raise ValueError(f"the corpus has changed since the run in {out} began; delete {out / RUN} to start anew.")


def finish(
    out: Path, model: nn.Module, tokenizer: Tokenizer, corpus: dict, options: dict, history: History, held_out: dict
) -> dict:
    """Write the checkpoint with its card in the place of the unfinished run, and return the card.

    corpus: name, about, fingerprint, and train_hashes, which come last because they are many.
    """
    hashes = corpus.pop("train_hashes", [])
    card = {
        "name": out.resolve().name,
        "made": date.today().isoformat(),
        "versions": checkpoints.versions(),
        "corpus": corpus,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            **options,
            "steps": history.steps,
            "tokens_seen": sum(history.tokens),
            "seconds": round(history.seconds),
            "device": next(model.parameters()).device.type,
            "curve": history.evaluations,
        },
        "held_out": held_out,
    }
    corpus["train_hashes"] = hashes
    card = checkpoints.save(out, model, tokenizer, card)
    # the plan first: without it the checkpoint counts for nothing. A part: of a process killed while it wrote
    for path in (out / RUN, out / TRAINING, out / PLACES, *out.glob(".*.part")):
        path.unlink(missing_ok=True)
    drop_shards(out / TRAINING)
    return card


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other commands out of a folder; the system opens it again when this process ends, however it ends.

    Raises ValueError when another command is at work there. Of several ranks the first one keeps it for all.
    """
    there, held = os.path.lexists(out), []

    def take() -> None:
        if fcntl is None or (there and not out.is_dir()):  # what is no folder is refused later, in other words
            return
        make_folder(out)
        held.append(os.open(out, os.O_RDONLY))
        try:
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another command is at work in {out}: wait until it has ended, or name another folder."
            ) from None

    try:
        with together() if join() else nullcontext():
            on_first(take)
            yield
    finally:
        if held and not there:
            with suppress(OSError):
                out.rmdir()  # if nothing was written
        for lock in held:
            os.close(lock)
