"""Writing with a masked model to be touched: which gap is filled at which step, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from nextbert_lite.core.diffusion import ORDERS, fill_gaps
from nextbert_lite.training.batches import pad, seeded
from nextbert_lite.training.loop import evaluating
from nextbert_lite.training.tokenizer import Tokenizer
from nextbert_lite.validate import check_count, check_tokenizer
from nextbert_lite.views import plots
from nextbert_lite.views.view import View, integers, packed, script

CHOICES, MAX_TOKENS = 5, 32
PLACES = {
    "random": "random positions",
    "left": "left to right",
    "surest": "the surest position first",
    "drawn": "the surest draw first",
}


class WritingSteps(View):
    """A text whose gaps are written step by step; each position shows what the model would put there at that step.

    model: a MaskedLanguageModel, or a function (1, T) -> logits (1, T, V). text: with a [MASK] for each gap. steps: one
    gap a step unless given. orders: of `fill_gaps`, each written once for each seed. step: where the slider starts.
    All is computed in Python in advance, so the view works without a kernel. Raises ValueError for a text without a
    gap or of more than 32 tokens, and for more steps than gaps.
    """

    _esm = script("writing.js")
    names = traitlets.List().tag(sync=True)  # R runs: an order and a draw each
    tokens = traitlets.List().tag(sync=True)  # (R, T), the whole texts
    written = traitlets.Bytes().tag(sync=True)  # (R, T), at which step, 0: stood there
    chances = traitlets.Bytes().tag(sync=True)  # (R, T), the probability of what was written when it was drawn
    words = traitlets.List().tag(sync=True)  # all words that are offered anywhere
    choices = traitlets.Int(CHOICES).tag(sync=True)
    guesses = traitlets.Bytes().tag(sync=True)  # (R, S, T, K), numbers into words, before each step
    sureness = traitlets.Bytes().tag(sync=True)  # the same, probabilities
    steps = traitlets.Int(1).tag(sync=True)
    run = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        tokenizer: Tokenizer,
        text: str,
        *,
        steps: int | None = None,
        orders: Sequence[str] = ("random", "left", "surest"),
        seeds: Sequence[int] = (0,),
        title: str = "",
        step: int = 0,
    ):
        check_tokenizer(tokenizer)
        if not callable(model):
            raise TypeError(f"the model is {type(model).__name__}; expected one that is called with ids.")
        ids, _ = pad([tokenizer.encode(text, allow_specials=True)], tokenizer.pad_id)
        T, gaps = ids.shape[1] - 2, int((ids == tokenizer.mask_id).sum())
        steps = gaps if steps is None else check_count("steps", steps)
        if not gaps or steps > gaps or T > MAX_TOKENS:
            raise ValueError(
                f"the text has {T} tokens and {gaps} gaps, to be written in {steps} steps: at most {MAX_TOKENS} "
                "tokens, at least one gap, and no more steps than gaps."
            )
        if step not in range(steps + 1) or isinstance(step, float) or not orders or not seeds:
            raise ValueError(f"step is {step}, of {steps}; it is counted from 0, and one order and seed are needed.")
        names, runs = [], []
        for order in orders:
            for number, seed in enumerate(seeds, 1):
                if order not in ORDERS:
                    raise ValueError(f"order is {order!r}; choose one of {', '.join(ORDERS)}.")
                names.append(PLACES[order] + (f", draw {number}" if len(seeds) > 1 else ""))
                runs.append(_recorded(model, tokenizer, ids, steps, order, seed))
        listed = list(dict.fromkeys(word for run in runs for word in tokenizer.tokens(run["best"].flatten())))
        number = {word: i for i, word in enumerate(listed)}
        best = [[number[word] for word in tokenizer.tokens(run["best"].flatten())] for run in runs]
        super().__init__(
            title=title,
            names=names,
            tokens=[tokenizer.tokens(run["ids"][1:-1]) for run in runs],
            written=b"".join(integers(run["written"]) for run in runs),
            chances=b"".join(packed(run["chances"]) for run in runs),
            words=listed,
            choices=int(runs[0]["best"].shape[-1]),
            guesses=b"".join(map(integers, best)),
            sureness=b"".join(packed(run["p"]) for run in runs),
            steps=steps,
            step=step,
            token=int((ids[0, 1:-1] == tokenizer.mask_id).nonzero()[0]),
        )

    def figure(self) -> Figure:
        """Return the first run as a table: a row a step, a column a position, shaded where it was surer."""
        T, S = len(self.tokens[0]), self.steps
        written, chances = (np.frombuffer(part, dtype="<u2")[:T] for part in (self.written, self.chances))
        fig, ax = plots.figure(size=(max(5.0, 0.95 * T), 0.9 + 0.33 * (S + 1)))
        for s in range(S + 1):
            for t, word in enumerate(self.tokens[0]):
                there, new = written[t] <= s, written[t] == s and s > 0
                if new:
                    box = {"color": plots.ORANGE, "alpha": 0.15 + 0.75 * chances[t] / 65535}
                    ax.add_patch(plots.plt.Rectangle((t - 0.5, s - 0.5), 1, 1, **box))
                shown = plots.plain(word.strip() or "␣") if there else "·"
                ink = "#303030" if there else "#808080"
                ax.text(
                    t, s, shown, ha="center", va="center", fontsize=8, color=ink, weight="bold" if new else "normal"
                )
        ax.set(xlim=(-0.5, T - 0.5), ylim=(S + 0.5, -0.5), xlabel="position", ylabel="step")
        ax.set_xticks(range(T), range(1, T + 1))
        ax.set_yticks(range(S + 1))
        ax.tick_params(length=0)
        ax.set_title(plots.plain(self.title or f"Written in {S} steps, {self.names[0]}; darker where it was surer"))
        return fig


@torch.no_grad()
def _recorded(model, tokenizer: Tokenizer, ids: Tensor, steps: int, order: str, seed: int) -> dict:
    """Write the text and return what happened: its ids, and for each position when and how surely, and all guesses."""
    seen, tables = [], []
    device = next((p.device for p in model.parameters()), ids.device) if isinstance(model, torch.nn.Module) else None

    def watched(ids: Tensor) -> Tensor:
        logits = model(ids.to(device)).double().cpu()
        if logits.isnan().any():
            raise ValueError("the model gives NaN: its weights hold NaN or an infinity. Load it or train it anew.")
        open_to = logits[0, 1:-1].clone()
        open_to[:, list(tokenizer.special_ids)] = -torch.inf
        seen.append(ids[0, 1:-1])
        tables.append(open_to.softmax(-1).nan_to_num(0.0))
        return logits

    with evaluating(model) if isinstance(model, torch.nn.Module) else torch.no_grad():
        whole = fill_gaps(watched, ids, tokenizer, steps, order, generator=seeded(seed))[0]
    states = torch.stack([*seen, whole[1:-1]])  # (S + 1, T)
    gaps = (states == tokenizer.mask_id).sum(0)  # a position that is a gap in w states is written at step w
    table = torch.stack(tables)  # (S, T, V)
    drawn = table.gather(2, states[-1].expand(len(table), -1)[..., None])[..., 0]
    chances = drawn.gather(0, (gaps - 1).clamp(min=0)[None])[0] * (gaps > 0)
    p, best = table.topk(min(CHOICES, table.shape[-1] - len(tokenizer.special_ids)), dim=-1)
    return {"ids": whole, "written": gaps.numpy(), "chances": chances.numpy(), "p": p.numpy(), "best": best}
