"""The checks of lesson 07, What RoBERTa changed."""

import copy
import math
import statistics
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from nextbert_lite.checks.core import (
    OTHER_SIZES,
    Build,
    Exercise,
    Fault,
    Mistake,
    Prediction,
    Stage,
    describe,
    hint,
    mine,
    solution,
    untouched,
)
from nextbert_lite.core.masking import IGNORE, mask_tokens
from nextbert_lite.training.batches import pad
from nextbert_lite.training.tokenizer import word_level

__all__ = [
    "bits_per_byte",
    "comparison",
    "hint",
    "mine",
    "pairs_of_segments",
    "solution",
    "times_the_tokens",
    "two_losses",
]

# --- 07.1 predict: how much more text the first step read -------------------------------------------------------------

times_the_tokens = Prediction(
    id="07.1",
    right=8192 * 100_000 * 512 / (256 * 1_000_000 * (0.9 * 128 + 0.1 * 512)),  # 9.85
    tolerance=0.3,
    mistakes=(
        Mistake(
            "sequences in place of tokens",
            8192 * 100_000 / (256 * 1_000_000),
            "that is the factor of the *sequences*, 8,192 · 100,000 against 256 · 1,000,000. They were longer too: "
            "BERT's "
            "had 128 tokens for nine tenths of its steps.",
            "batch and steps multiplied, the length forgotten",
        ),
        Mistake(
            "steps alone",
            0.1,
            "a tenth of the steps, but each step read 32 times as many sequences, and longer ones.",
            "runs compared by their number of steps alone",
        ),
        Mistake(
            "all of BERT's steps short",
            8192 * 100_000 * 512 / (256 * 1_000_000 * 128),
            "nearly: a tenth of BERT's steps had 512 tokens. Its mean length is 0.9 · 128 + 0.1 · 512.",
            "Devlin et al. 2019, appendix A.2, read half",
        ),
        Mistake(
            "the mean of the two lengths",
            8192 * 100_000 * 512 / (256 * 1_000_000 * (128 + 512) / 2),
            "you took the plain mean of 128 and 512, which is 320. Nine tenths of BERT's steps had the short length: "
            "weigh the two by their steps.",
            "an unweighted mean",
        ),
        Mistake(
            "the same text, the same tokens",
            1.0,
            "the *text* is about the same, 13 GB and 16 GB. How often a model goes over it is another matter: count "
            "the "
            "tokens of all steps.",
            "the size of a corpus taken for what was read",
        ),
    ),
    hints=(
        "Tokens = steps · sequences a step · tokens a sequence, for each of the two.",
        "BERT's sequences have 0.9 · 128 + 0.1 · 512 = 166.4 tokens on average.",
    ),
    praise="About the same text, read about ten times as often.",
)


# --- 07.2 build: the loop of an ablation ------------------------------------------------------------------------------


def loop(
    refuses="before",
    sets="each run",
    once=True,
    over=lambda seeds: seeds,
    sign=1,
    n_less=1,
    root=True,
    paired=True,
    relative=False,
    keeps=False,
    limit=1,
):
    """Return the loop of an ablation; each switch is a part that a learner may write otherwise."""

    def compare(run, conditions, seeds, against):
        def refuse(names):
            for name in names:
                changed = [key for key, value in conditions[name].items() if value != conditions[against][key]]
                if name != against and (len(changed) > 1 if limit == "at most" else len(changed) != 1):
                    raise ValueError(f"'{name}' differs from '{against}' in {len(changed)} settings; change one.")

        if refuses == "before":
            refuse(conditions)
        losses = {name: [] for name in conditions}
        others = [name for name in conditions if name != against]
        if sets == "once":
            torch.manual_seed(next(iter(seeds)))
        for seed in over(seeds):
            if sets == "each seed":
                torch.manual_seed(seed)
            for name in conditions if once else [part for other in others for part in (against, other)]:
                if sets == "each run":
                    torch.manual_seed(seed)
                losses[name].append(run(seed=seed, **conditions[name]))
        if refuses == "after":
            refuse(conditions)
        n = len(seeds)
        base = losses[against][:: 1 if once else max(1, len(others))]
        found = {}
        for name in conditions if keeps else others:
            steps = [sign * (a - b) for a, b in zip(losses[name], base, strict=True)]
            if relative:
                steps = [step / b for step, b in zip(steps, base, strict=True)]
            mean = sum(steps) / n
            lists = {True: [steps], False: [losses[name]], "apart": [losses[name], base]}[paired]
            spread = sum((x - sum(of) / n) ** 2 for of in lists for x in of)
            error = math.sqrt(spread / (n - n_less)) / (math.sqrt(n) if root else 1) if n > n_less else math.nan
            found[name] = (mean, error)
        return found

    return compare


def by_statistics(run, conditions, seeds, against):
    """Another way: a table of losses, then the statistics module."""
    changed = {n: sum(c[key] != conditions[against][key] for key in c) for n, c in conditions.items() if n != against}
    if wrong := [name for name, count in changed.items() if count != 1]:
        raise ValueError(f"not one change: {wrong}")
    rows = {}
    for name, condition in conditions.items():
        for seed in seeds:
            torch.random.manual_seed(seed)
            rows[name, seed] = run(seed, **condition)
    result = {}
    for name in changed:
        steps = [rows[name, seed] - rows[against, seed] for seed in seeds]
        error = statistics.stdev(steps) / len(steps) ** 0.5 if len(steps) > 1 else float("nan")
        result[name] = [statistics.fmean(steps), error]
    return result


THREE = {
    "BERT": {"rate": 1e-4, "nsp": True},
    "no NSP": {"rate": 1e-4, "nsp": False},
    "another rate": {"rate": 7e-4, "nsp": True},
}


def noted(answer, generator, conditions=THREE, seeds=(3, 5, 11), against="BERT"):
    """Return what the answer gives on runs with known losses, and the list of the runs."""
    of_seed = {seed: float(torch.randn((), generator=generator)) for seed in seeds}
    log = []

    def run(seed, **settings):
        key = (seed, *sorted(settings.items()))
        log.append(key)
        if seed not in of_seed:
            raise Fault(f"a run was made with the seed {seed}; the seeds are {list(seeds)}.")
        number = sum(map(ord, repr(key[1:])))
        return 2 + of_seed[seed] + 0.1 * math.sin(number) + 0.03 * math.sin(31 * seed + number)

    found = untouched(answer, run, copy.deepcopy(conditions), list(seeds), against)
    return found, log


def as_numbers(found):
    """Return the names and the numbers of a result, or say what it is in place of a dict of pairs."""
    if not isinstance(found, dict):
        raise Fault(
            f"expected a dict from the name of a condition to (mean, standard error); yours is {describe(found)}."
        )
    try:
        return list(found), torch.tensor([[float(x) for x in pair] for pair in found.values()], dtype=torch.float64)
    except (TypeError, ValueError):
        raise Fault("the values of the dict should be pairs of two numbers, (mean, standard error).") from None


def names_found(answer, generator):
    return as_numbers(noted(answer, generator)[0])[0]


def means(answer, generator):
    return as_numbers(noted(answer, generator)[0])[1][:, 0]


def errors(answer, generator):
    return as_numbers(noted(answer, generator)[0])[1]


def each_once(answer, generator):
    log = noted(answer, generator)[1]
    return f"{len(log)} runs", f"{len(set(log))} different ones"


def same_start(answer, generator):
    """What a run draws from torch's generator: the same in all runs of a seed."""
    drawn = {}

    def run(seed, **settings):
        drawn.setdefault(seed, []).append(round(torch.rand(3).sum().item(), 5))
        return float(seed)

    answer(run, copy.deepcopy(THREE), [4, 9], "BERT")
    alike = all(len(set(values)) == 1 for values in drawn.values())
    differ = len({values[0] for values in drawn.values()}) == len(drawn)
    right = []
    for seed in drawn:
        torch.manual_seed(seed)
        right.append(drawn[seed][0] == round(torch.rand(3).sum().item(), 5))
    return (
        f"the runs of a seed begin {'alike' if alike else 'with different random numbers'}",
        f"runs of two seeds begin {'differently' if differ else 'alike'}",
        f"torch.manual_seed(seed) came before the first run of each seed: {right}",
    )


def one_change(answer, generator):
    """Two changes and no change are refused with ValueError, before anything runs."""
    said = []
    for other in ({"rate": 7e-4, "nsp": False}, {"rate": 1e-4, "nsp": True}):
        log = []
        try:
            answer(
                lambda seed, log=log, **settings: log.append(seed) or 1.0,
                copy.deepcopy(THREE) | {"odd one": other},
                [1, 2],
                "BERT",
            )
            said.append("not refused")
        except ValueError as error:
            said.append("refused" if not log else "refused after runs were made")
            said.append(
                "the message names it" if "odd one" in str(error) else "the message does not name the condition"
            )
    return said


def compare_other_sizes(answer, generator):
    """Other names, settings and numbers of seeds; a baseline that is not the first; one seed."""
    four = {name: {"batch": size} for name, size in (("a", 16), ("b", 64), ("c", 256), ("d", 1024))}
    found = as_numbers(noted(answer, generator, four, (2, 0, 7, 1, 5), "c")[0])
    return found, as_numbers(noted(answer, generator, four, (8,), "a")[0])


comparison = Build(
    id="07.2",
    course=loop(),
    stages=(
        Stage("names", names_found),
        Stage("means", means),
        Stage("standard errors", errors),
        Stage("each run once", each_once),
        Stage("the same start", same_start),
        Stage("one change at a time", one_change),
        Stage(OTHER_SIZES, compare_other_sizes),
    ),
    mistakes=(
        Mistake(
            "compared with itself",
            loop(keeps=True),
            "the result has an entry for `against` too, which compares that condition with itself. Leave it out.",
            "a loop over all conditions",
        ),
        Mistake(
            "the other way round",
            loop(sign=-1),
            "your differences have the wrong sign: subtract the loss of `against` *from* that of the condition. Then a "
            "positive number says that the change did harm.",
            "both signs are in use; the text decides",
        ),
        Mistake(
            "relative",
            loop(relative=True),
            "you divide the difference by the loss of `against`. Nats are wanted, not a proportion.",
            "relative improvements, as in many tables",
        ),
        Mistake(
            "spread of one condition",
            loop(paired=False),
            "the means are right. Your standard error is that of the condition's own losses. What all runs of a seed "
            "share, "
            "the initial weights and the data, cancels in the *differences*: take the error of those.",
            "the first edition of this lesson did so",
        ),
        Mistake(
            "the errors of two separate groups",
            loop(paired="apart"),
            "the means are right. Your standard error adds the variances of the two conditions, as if their runs had "
            "used different seeds. Take the differences within each seed first, and the error of those: what the two "
            "runs of a seed share then cancels.",
            "the formula of the unpaired t-test",
        ),
        Mistake(
            "not divided by the root of n",
            loop(root=False),
            "the means are right. Your error is the standard deviation of the differences, which says how far *one* "
            "seed "
            "scatters. The error of the mean is smaller: divide by √n.",
            "standard deviation and standard error taken for one another",
        ),
        Mistake(
            "n in place of n - 1",
            loop(n_less=0),
            "the means are right. You divide the squares by n; the standard deviation of a sample divides by n - 1, "
            "because "
            "the mean was taken from the same numbers. With three seeds that is a factor of 1.2.",
            "numpy.std's default (ddof=0) and torch.std's (n - 1) differ",
        ),
        Mistake(
            "the baseline again and again",
            loop(once=False),
            "the condition `against` is run again for every other one. Each run costs minutes: make each pair of "
            "seed and "
            "condition once, and compare afterwards.",
            "pairwise comparisons written as pairs of runs",
        ),
        Mistake(
            "no seed set",
            loop(sets="never"),
            "nothing sets torch's seed, so two runs of one seed begin with other random weights. Call "
            "torch.manual_seed(seed) before *each* run.",
            "a script without any manual_seed",
        ),
        Mistake(
            "seeded once a seed",
            loop(sets="each seed"),
            "torch's seed is set once for each seed, and not before each run: the first run uses up random numbers, "
            "and the "
            "second begins with others. Set it before each run.",
            "a manual_seed one loop too far out",
        ),
        Mistake(
            "seeded once",
            loop(sets="once"),
            "torch's seed is set once, before all runs. Set it before each run.",
            "a manual_seed at the top of a script",
        ),
        Mistake(
            "nothing refused",
            loop(refuses="never"),
            "a condition that changes two settings is compared all the same. Raise a ValueError that names it.",
            "Liu et al. 2019, Table 2: rows that differ in the input and in the loss",
        ),
        Mistake(
            "no change is no fault",
            loop(limit="at most"),
            "a condition that equals `against` in every setting is not refused. Exactly one setting must differ: "
            "with none, "
            "the comparison measures nothing, and the name claims otherwise.",
            "`> 1` where `!= 1` was meant",
        ),
        Mistake(
            "refused too late",
            loop(refuses="after"),
            "you look at the settings after the runs were made. Refuse before the first run: hours may lie between.",
            "a check at the end of a script",
        ),
        Mistake(
            "the number of seeds",
            loop(over=lambda seeds: range(len(seeds))),
            "the runs were made with the seeds 0, 1, 2 … in place of those in `seeds`: loop over `seeds` itself.",
            "for seed in range(len(seeds))",
        ),
    ),
    hints=(
        "Three parts: look at the settings; two loops, over the seeds and the conditions, which fill a table of "
        "losses; "
        "differences and their statistics.",
        "`changed = [key for key in settings if settings[key] != conditions[against][key]]`, and a ValueError unless "
        "it has "
        "one entry (`against` itself has none and is not looked at).",
        "`torch.manual_seed(seed)`, then `losses[name].append(run(seed=seed, **settings))`.",
        "`statistics.stdev(differences) / math.sqrt(len(seeds))`; with one seed there is no error: `math.nan`.",
    ),
    praise="It judges every comparison of this lesson.",
    other_ways=(by_statistics,),
)
comparison.course.__name__ = "compare"


# --- 07.3 build: pairs of segments ------------------------------------------------------------------------------------

PARTS = ("ids", "labels", "mask", "not_next", "types")
OWN = word_level(f"w{i}" for i in range(400))
ROBERTAS = SimpleNamespace(
    cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=399, special_ids=(0, 1, 2, 3, 399), vocab_size=400
)


def pairing(
    between=True,
    end=True,
    second_cls=False,
    cuts=lambda n, draw: 1 + draw(n - 1),
    whole_b=True,
    first_type=0,
    early=False,
    pad_type=0,
    turned=False,
    partner="another",
    own_cut=True,
    from_start=False,
    coin=0.5,
    coins="each row",
    hide=True,
    own_rate=None,
    all_labels=False,
    draws_from="generator",
    fixed=None,
    pad_with=None,
):
    """Return a function that makes batches of pairs; each switch is a part that a learner may write otherwise."""

    def pair_batch(documents, n, tokenizer, generator, mixed=True, rate=0.15):
        if draws_from == "anew":
            generator = torch.Generator().manual_seed(0)
        source = None if draws_from == "torch" else generator

        def draw(upper):
            return int(torch.randint(upper, (), generator=source))

        cls_id, sep_id = fixed or (tokenizer.cls_id, tokenizer.sep_id)
        rows, types, not_next = [], [], []
        halves_of_batch = torch.randperm(n, generator=source).tolist() if coins == "shuffled" else range(n)
        same_coin = bool(torch.rand((), generator=source) < coin) if coins == "one" else None
        for number in range(n):
            i = draw(len(documents))
            cut = cuts(len(documents[i]), draw)
            if coins == "each row":
                foreign = mixed and bool(torch.rand((), generator=source) < coin)
            else:
                foreign = mixed and (same_coin if coins == "one" else halves_of_batch[number] % 2 == 1)
            j, start = i, cut
            if foreign:
                if partner == "another":
                    j = (i + 1 + draw(len(documents) - 1)) % len(documents)
                elif partner == "any":
                    j = draw(len(documents))
                else:
                    j = (i + 1) % len(documents)
                start = (
                    0 if from_start else cuts(len(documents[j]), draw) if own_cut else min(cut, len(documents[j]) - 1)
                )
            a = [token for sentence in documents[i][:cut] for token in sentence]
            b = [
                token
                for sentence in documents[j][start if whole_b else -1 :][: 1 if whole_b == "next" else None]
                for token in sentence
            ]
            row = [cls_id, *a, *([sep_id] * between), *([cls_id] * second_cls), *b, *([sep_id] * end)]
            n_a = 1 + len(a) + (0 if early else between)
            rows.append(row)
            types.append([first_type] * n_a + [first_type + 1] * (len(row) - n_a))
            not_next.append(int(foreign != turned))
        ids, mask = pad(rows, tokenizer.pad_id if pad_with is None else pad_with)
        corrupted, labels = mask_tokens(ids, tokenizer, own_rate or rate, generator)
        return {
            "ids": corrupted if hide else ids,
            "labels": ids if all_labels else labels,
            "mask": mask,
            "types": pad(types, pad_type)[0],
            "not_next": torch.tensor(not_next),
        }

    return pair_batch


def by_slices(documents, n, tokenizer, generator, mixed=True, rate=0.15):
    """Another way: all draws first, then rows with their types by position."""
    first = torch.randint(0, len(documents), (n,), generator=generator).tolist()
    other = (torch.rand(n, generator=generator) >= 0.5) & mixed
    rows, kinds = [], []
    for i, foreign in zip(first, other.tolist(), strict=True):
        document = documents[i]
        cut = torch.randint(1, len(document), (1,), generator=generator).item()
        second = document[cut:]
        if foreign:
            j = i
            while j == i:
                j = torch.randint(len(documents), (1,), generator=generator).item()
            second = documents[j][torch.randint(1, len(documents[j]), (1,), generator=generator).item() :]
        a, b = ([token for sentence in part for token in sentence] for part in (document[:cut], second))
        rows.append(torch.tensor([tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]))
        kinds.append((torch.arange(len(rows[-1])) > len(a) + 1).long())
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_id)
    types = torch.nn.utils.rnn.pad_sequence(kinds, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    hidden, labels = mask_tokens(ids, tokenizer, rate, generator)
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    return dict(ids=hidden, labels=labels, mask=mask, types=types, not_next=other.long())


def library(generator, n=6, least=2, most=4, first=5):
    """Return documents in which each id comes once, and a dict from an id to (document, sentence, last of it?)."""
    documents, where = [], {}
    for d in range(n):
        sentences = []
        for s in range(int(torch.randint(least, most + 1, (), generator=generator)) if most > least else most):
            ids = list(
                range(first + len(where), first + len(where) + 1 + int(torch.randint(3, (), generator=generator)))
            )
            where |= {i: (d, s) for i in ids}
            sentences.append(ids)
        documents.append(sentences)
    return documents, where


def made(answer, documents, n, tokenizer, generator, *more, **named):
    """Return the batch; Fault where it is no dict of the five tensors."""
    batch = untouched(lambda d: answer(d, n, tokenizer, generator, *more, **named), documents)
    if not isinstance(batch, dict):
        raise Fault(f"expected a dict of five tensors; yours is {describe(batch)}.")
    if sorted(batch) != list(PARTS):
        raise Fault(f"the dict has the names {sorted(map(str, batch))}; expected {list(PARTS)}.")
    odd = [name for name in PARTS if not isinstance(batch[name], torch.Tensor)]
    if odd:
        raise Fault(f"{odd[0]} is {describe(batch[odd[0]])}; expected a tensor.")
    T = batch["ids"].shape[-1]
    for name in PARTS:
        wanted = (n,) if name == "not_next" else (n, T)
        if tuple(batch[name].shape) != wanted:
            raise Fault(f"{name} has the shape {tuple(batch[name].shape)}; expected {wanted}.")
        kind = torch.bool if name == "mask" else torch.int64
        if batch[name].dtype != kind:
            raise Fault(f"{name} is of {batch[name].dtype}; expected {kind}.")
    return batch


def originals(batch):
    """Return the ids before masking, a list for each row, without padding."""
    ids = torch.where(batch["labels"] == IGNORE, batch["ids"], batch["labels"])
    return [row[real].tolist() for row, real in zip(ids, batch["mask"], strict=True)]


def pattern(row, tokenizer, more=None):
    """Return a row as text, such as "[CLS] A [SEP] B [SEP]"; `more` adds its number to each token's name."""
    names = {tokenizer.cls_id: "[CLS]", tokenizer.sep_id: "[SEP]"}
    shown, kinds = [], [""] * len(row) if more is None else [f":{m}" for m in more]
    for token, kind in zip(row, kinds, strict=True):
        name = names.get(token, "words") + kind
        if not shown or shown[-1] != name or name.startswith("["):
            shown.append(name)
    return " ".join(shown)


def halves(row, tokenizer):
    """Return the tokens of A and of B."""
    at = [i for i, token in enumerate(row) if token == tokenizer.sep_id]
    return row[1 : at[0]], row[at[0] + 1 : at[1]]


def parts(answer, generator):
    documents, _ = library(generator)
    made(answer, documents, 5, OWN, generator, False)
    return True


def rows_made(answer, generator):
    documents, _ = library(generator)
    batch = made(answer, documents, 60, OWN, generator, mixed=False)
    mask = batch["mask"]
    prefix = mask == (torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True))
    padding = sorted(set(batch["ids"][~mask].tolist()))
    longest = int(mask.sum(1).max())
    return (
        f"the rows are {sorted({pattern(row, OWN) for row in originals(batch)})}",
        f"the mask {'covers' if bool(prefix.all()) else 'does not cover'} the real tokens from the left",
        f"padded with the ids {padding}",
        f"T is {'the longest length' if longest == mask.shape[1] else 'more than the longest length'}",
    )


def spans(tokens, where, documents):
    """Return (document, first sentence, one behind the last) of whole sentences in order, else None."""
    if not tokens or any(token not in where for token in tokens):
        return None
    (d, first), (_, last) = where[tokens[0]], where[tokens[-1]]
    whole = [token for sentence in documents[d][first : last + 1] for token in sentence]
    return (d, first, last + 1) if tokens == whole else None


def segments(answer, generator):
    documents, where = library(generator, most=4, least=4)
    batch = made(answer, documents, 240, OWN, generator, mixed=False)
    told, cuts, used = set(), set(), set()
    for row in originals(batch):
        a, b = (spans(half, where, documents) for half in halves(row, OWN))
        if a is None or b is None:
            told.add("A or B is not made of whole sentences in their order")
            continue
        told.add("A begins with the document's first sentence" if a[1] == 0 else "A begins later")
        told.add("B begins where A ends" if b[:2] == (a[0], a[2]) else "B does not begin where A ends")
        told.add("B ends with the document" if b[2] == 4 else "B ends before the document does")
        cuts.add(a[2])
        used.add(a[0])
    return sorted(told), f"A has {sorted(cuts)} of 4 sentences", f"{len(used)} of 6 documents are used"


def typed(answer, generator):
    documents, _ = library(generator)
    batch = made(answer, documents, 60, OWN, generator, mixed=False)
    of_rows = [types[real].tolist() for types, real in zip(batch["types"], batch["mask"], strict=True)]
    patterns = {pattern(row, OWN, types) for row, types in zip(originals(batch), of_rows, strict=True)}
    padding = sorted(set(batch["types"][~batch["mask"]].tolist()))
    return f"the types are {sorted(patterns)}, {padding} for padding"


def mixed_pairs(answer, generator):
    documents, where = library(generator, n=5, most=4, least=4)
    batch = made(answer, documents, 600, OWN, generator)
    told, apart, cuts, foreign = set(), set(), set(), 0
    for row, label in zip(originals(batch), batch["not_next"].tolist(), strict=True):
        a, b = (spans(half, where, documents) for half in halves(row, OWN))
        if a is None or b is None:
            told.add("A or B is not made of whole sentences in their order")
            continue
        same, follows = a[0] == b[0], b[:2] == (a[0], a[2])
        is_from = "the same document" if same else "another document"
        told.add(f"label {label}: B {'follows A' if follows else f'is from {is_from}'}")
        if not same:
            foreign += 1
            apart.add((b[0] - a[0]) % 5)
            cuts.add((a[2], b[1]))
            told.add("a foreign B ends with its document" if b[2] == 4 else "a foreign B ends before its document does")
    proportion = foreign / 600
    half = "about half" if 0.4 < proportion < 0.6 else "about 40 %" if 0.35 < proportion <= 0.4 else f"{proportion:.0%}"
    return (
        sorted(told),
        f"{half} of the pairs are foreign",
        f"the other document is {sorted(apart)} further on",
        f"a foreign B begins with the sentences {sorted({start for _, start in cuts})}",
        f"and independently of A's end: {len({a for a, _ in cuts}) * len({s for _, s in cuts}) == len(cuts)}",
    )


def masked(answer, generator):
    documents, where = library(generator)
    batch = made(answer, documents, 400, OWN, generator, rate=0.4)
    ids, labels, real = batch["ids"], batch["labels"], batch["mask"]
    chosen = labels != IGNORE
    special = chosen & torch.isin(labels, torch.tensor(OWN.special_ids))
    ordinary = real.sum() - 3 * 400
    rate = float((chosen & ~special).sum() / ordinary)
    as_mask = float((ids[chosen] == OWN.mask_id).double().mean()) if chosen.any() else 0.0
    kept = float((ids[chosen] == labels[chosen]).double().mean()) if chosen.any() else 0.0

    words_only = all(token in where for token in labels[chosen & ~special].tolist())

    def near(value, wanted, width):
        return wanted if abs(value - wanted) < width else round(value, 1)

    return (
        f"{near(rate, 0.4, 0.05):.0%} of the words are selected",
        f"special tokens and padding are {'selected too' if special.any() else 'never selected'}",
        f"{near(as_mask, 0.8, 0.06):.0%} of those become [MASK]",
        f"{near(kept, 0.1, 0.06):.0%} stay",
        f"the labels hold {'the words' if words_only else 'other ids'}",
    )


def from_the_generator(answer, generator):
    documents, _ = library(generator)

    def batch(source):
        return made(answer, documents, 20, OWN, source)["ids"]

    before = torch.get_rng_state()
    source = torch.Generator().manual_seed(7)
    first, second = batch(source), batch(source)
    moved = not torch.equal(before, torch.get_rng_state())
    again = batch(torch.Generator().manual_seed(7))
    repeats = first.shape == again.shape and torch.equal(first, again)
    changes = first.shape != second.shape or not torch.equal(first, second)
    return (
        f"the same generator state gives {'the same' if repeats else 'another'} batch",
        f"a second call gives {'another' if changes else 'the same'} batch",
        f"torch's own generator is {'used' if moved else 'left alone'}",
    )


def each_row_by_chance(answer, generator):
    """Which rows of a batch are foreign, and how many of them, in thirty batches."""
    documents, _ = library(generator)
    foreign = torch.stack([made(answer, documents, 8, OWN, generator)["not_next"] for _ in range(30)])
    fixed, numbers = bool((foreign == foreign[0]).all()), set(foreign.sum(1).tolist())
    return (
        f"a row's number {'tells' if fixed else 'does not tell'} whether it is foreign",
        f"the number of foreign pairs in a batch {'varies' if len(numbers) > 1 else 'is always the same'}",
    )


def pair_other_sizes(answer, generator):
    """Another tokenizer, whose special ids are RoBERTa's; two documents of two sentences; one row."""
    documents, where = library(generator, n=2, least=2, most=2, first=10)
    batch = made(answer, documents, 40, ROBERTAS, generator, True, 0.5)
    labels = set()
    for row, label in zip(originals(batch), batch["not_next"].tolist(), strict=True):
        a, b = halves(row, ROBERTAS)
        labels.add((label, where[a[0]][0] != where[b[0]][0]))
    padding = sorted(set(batch["ids"][~batch["mask"]].tolist()))
    one = made(answer, documents, 1, ROBERTAS, generator, False)
    patterns = {pattern(row, ROBERTAS) for row in originals(batch) + originals(one)}
    return f"rows {sorted(patterns)}", f"padded with {padding}", sorted(labels), int(one["not_next"])


pairs_of_segments = Build(
    id="07.3",
    course=pairing(),
    stages=(
        Stage("parts and shapes", parts),
        Stage("rows", rows_made),
        Stage("segments", segments),
        Stage("token types", typed),
        Stage("pairs and labels", mixed_pairs),
        Stage("masked tokens", masked),
        Stage("one generator", from_the_generator),
        Stage("each row by chance", each_row_by_chance),
        Stage(OTHER_SIZES, pair_other_sizes),
    ),
    mistakes=(
        Mistake(
            "no [SEP] between",
            pairing(between=False),
            "the [SEP] between A and B is missing: [CLS] A [SEP] B [SEP].",
            "Devlin et al. 2019, figure 2, read too quickly",
        ),
        Mistake(
            "no [SEP] at the end",
            pairing(end=False),
            "the last [SEP] is missing: [CLS] A [SEP] B [SEP]. B has one too.",
            "Devlin et al. 2019, figure 2, read too quickly",
        ),
        Mistake(
            "a second [CLS]",
            pairing(second_cls=True),
            "B starts with a [CLS] of its own. A row has one [CLS], at its start, for both segments.",
            "two encoded texts put behind one another: `encode` adds [CLS] and [SEP] to each",
        ),
        Mistake(
            "a cut at 0",
            pairing(cuts=lambda n, draw: draw(n)),
            "some rows have an empty A: a cut at 0 leaves nothing before it. A document of n sentences has n - 1 "
            "places "
            "to cut, behind sentence 1 … n - 1.",
            "torch.randint(n, …) where 1 … n - 1 was meant",
        ),
        Mistake(
            "always after the first sentence",
            pairing(cuts=lambda n, draw: 1),
            "A is always one sentence. Draw the cut among all n - 1 places, so that the model meets long and short A.",
            "google-research/bert, create_pretraining_data.py draws a_end with randint",
        ),
        Mistake(
            "B is one sentence",
            pairing(whole_b=False),
            "B is only the last sentence of its document. It is everything behind the cut: a *segment*, not a "
            "sentence. "
            "(With sentences the paper's model was worse: 82.9 against 84.0 on MNLI.)",
            "Liu et al. 2019, Table 2: sentence pairs and segment pairs",
        ),
        Mistake(
            "B is the next sentence",
            pairing(whole_b="next"),
            "B is only the one sentence behind the cut. It is everything behind the cut, up to the end of the "
            "document: a *segment*, not a sentence.",
            "the name of the task, next-sentence prediction, taken at its word",
        ),
        Mistake(
            "type 1 too early",
            pairing(early=True),
            "the first [SEP] has type 1. It belongs to A: type 0 up to and with the first [SEP].",
            "Hugging Face's documentation of token_type_ids: the first [SEP] counts to the first segment",
        ),
        Mistake(
            "types from 1",
            pairing(first_type=1),
            "your types are 1 and 2. The model has two rows for them, 0 and 1: a 2 is out of range, or, where there is "
            "a third row, wastes one.",
            "codertimo/BERT-pytorch, dataset.py: segment labels 1 and 2, 0 for padding",
        ),
        Mistake(
            "padding of type 1",
            pairing(pad_type=1),
            "the padding has type 1. The model does not look there, but the text asks for 0.",
            "types made from positions, without the row's length",
        ),
        Mistake(
            "label turned round",
            pairing(turned=True),
            "the labels are turned round. Here, as in Google's code and in Hugging Face's "
            "`BertForNextSentencePrediction`, "
            "0 says that B is next, and 1 that it is not.",
            "google-research/bert: next_sentence_labels is 1 for a random next sentence",
        ),
        Mistake(
            "the same document",
            pairing(partner="any"),
            "the other document is sometimes the same one, so a pair that belongs together, or overlaps, is called "
            "foreign. Draw j among the documents that are not i.",
            "https://github.com/codertimo/BERT-pytorch/issues/86, "
            "https://github.com/NVIDIA/DeepLearningExamples/issues/421",
        ),
        Mistake(
            "always the neighbour",
            pairing(partner="next"),
            "the other document is always the one behind i, so a model can learn which documents go together. Draw it "
            "among all others.",
            "the first edition of this lesson took the row before",
        ),
        Mistake(
            "a foreign document from its start",
            pairing(from_start=True),
            "a foreign B is a whole document, from its first sentence on. A B that is next never begins so, and the "
            "model "
            "could tell the two by that. Cut document j at a place of its own and take what is behind it.",
            "a clue that gives the label away",
        ),
        Mistake(
            "A's cut for both",
            pairing(own_cut=False),
            "a foreign B begins at the number of the sentence where A ends. Document j gets a cut of its own; it may "
            "also "
            "have fewer sentences.",
            "one draw used twice",
        ),
        Mistake(
            "mixed is not looked at",
            pairing(coin=0.0),
            "with `mixed=True` no pair is foreign. Each row is so with probability 1/2.",
            "an argument that is never read",
        ),
        Mistake(
            "every second row",
            pairing(coins="turns"),
            "the foreign pairs stand at the same rows of every batch, so a row's number gives its label away. Each "
            "row is foreign with probability 1/2: draw for each.",
            "labels that alternate, `row % 2`",
        ),
        Mistake(
            "exactly half of a batch",
            pairing(coins="shuffled"),
            "every batch has the same number of foreign pairs. Each row is foreign with probability 1/2, whatever the "
            "others are, so that number varies: draw for each row.",
            "a balanced batch, half of the rows shuffled",
        ),
        Mistake(
            "one coin for the batch",
            pairing(coins="one"),
            "you draw once for the whole batch, so that all of its pairs are foreign or none is. Draw for each row.",
            "a draw outside the loop",
        ),
        Mistake(
            "nothing is hidden",
            pairing(hide=False),
            "`ids` holds the words themselves, so the model can copy them. It must hold the corrupted ids, the first "
            "of "
            "the two results of mask_tokens.",
            "the two results of mask_tokens taken for one another",
        ),
        Mistake(
            "labels everywhere",
            pairing(all_labels=True),
            "`labels` holds an id at each position, padding and [CLS] too. It is -100 where no token was selected: the "
            "second result of mask_tokens.",
            "https://github.com/huggingface/transformers/issues/2759 and the like",
        ),
        Mistake(
            "always 15 %",
            pairing(own_rate=0.15),
            "the `rate` has no effect: 15 % are selected whatever it is.",
            "a default argument that is not passed on",
        ),
        Mistake(
            "torch's own generator",
            pairing(draws_from="torch"),
            "some draws come from torch's own generator and not from `generator`. Give it to every draw, "
            "`torch.randint(…, generator=generator)`: a batch must depend on it alone.",
            "a draw without generator=",
        ),
        Mistake(
            "a generator of its own",
            pairing(draws_from="anew"),
            "every call gives the same batch: you make a new generator inside. Use the one that is given.",
            "a seed set inside a function",
        ),
        Mistake(
            "ids written down",
            pairing(fixed=(2, 3)),
            "[CLS] and [SEP] are the numbers 2 and 3 of one tokenizer. Another has others: tokenizer.cls_id, "
            "tokenizer.sep_id.",
            "RoBERTa's <s> is 0 and </s> is 2",
        ),
        Mistake(
            "padded with 0",
            pairing(pad_with=0),
            "you pad with 0. This tokenizer's padding has another id: tokenizer.pad_id.",
            "RoBERTa's <pad> is 1",
        ),
    ),
    hints=(
        "First a single row without `mixed`: draw i, draw a cut from 1 to the number of sentences - 1, join the "
        "sentences "
        "in front of it and those behind it.",
        "[CLS] and the first [SEP] count to A: `types = [0] * (len(a) + 2) + [1] * (len(b) + 1)`.",
        "A document other than i: `j = (i + 1 + draw) % len(documents)` with a draw from 0 to `len(documents)` - 2.",
        "`ids, mask = pad(rows, tokenizer.pad_id)`, then `mask_tokens(ids, tokenizer, rate, generator)`; "
        "`pad(types)[0]`.",
    ),
    praise="Apart from a little in the lengths, only what the parts say tells whether they belong together.",
    other_ways=(by_slices,),
)
pairs_of_segments.course.__name__ = "pair_batch"


# --- 07.4 find the bug ------------------------------------------------------------------------------------------------


def losses_to_add(generator):
    """Return log-probabilities and labels of both tasks: 0 = not selected for words, 0 = next for pairs."""
    words = torch.randn(4, 6, 9, generator=generator).log_softmax(-1)
    word_labels = torch.randint(1, 9, (4, 6), generator=generator)
    word_labels[torch.rand(4, 6, generator=generator) < 0.6] = 0
    word_labels[0, :2] = torch.tensor([3, 0])
    pairs = torch.randn(4, 2, generator=generator).log_softmax(-1)
    return words, word_labels, pairs, torch.tensor([0, 1, 0, 1])


def summed(words, word_labels, pairs, not_next, skip_words=0, skip_pairs=-100):
    masked = F.nll_loss(words.flatten(0, 1), word_labels.flatten(), ignore_index=skip_words)
    return masked + F.nll_loss(pairs, not_next, ignore_index=skip_pairs)


two_losses = Exercise(
    id="07.4",
    right=summed,
    inputs=losses_to_add,
    also=lambda generator: tuple(part[:3] for part in losses_to_add(generator)),
    mistakes=(
        Mistake(
            "the bug as it was",
            lambda *a: summed(*a, skip_pairs=0),
            "the bug is still there: ignore_index=0 leaves out every pair with the label 0, those that belong "
            "together. The "
            'model is only ever told "not next", says so always, and is right half of the time. The pairs need a loss '
            "without ignore_index.",
            "https://github.com/codertimo/BERT-pytorch/issues/32, https://github.com/codertimo/BERT-pytorch/issues/49",
        ),
        Mistake(
            "ignored nowhere",
            lambda *a: summed(*a, skip_words=-100),
            "now the pairs are right, but the loss of the words counts every word that was *not* selected as a word "
            "of id 0. The "
            "words still need ignore_index=0, because 0 marks them as not selected here.",
            "ignore_index dropped for both, as https://github.com/codertimo/BERT-pytorch/pull/77 would",
        ),
        Mistake(
            "the labels turned round",
            lambda w, y, p, n: summed(w, y, p, 1 - n),
            "the labels of the pairs are turned round, so the loss teaches the opposite. The labels were right: it is "
            "`ignore_index=0` that leaves out those that are 0.",
            "0 and 1 exchanged so that the other label is the one ignored, or to another convention",
        ),
        Mistake(
            "the mean over all positions",
            lambda w, y, p, n: F.nll_loss(w.mT, y, ignore_index=0, reduction="none").mean() + F.nll_loss(p, n),
            "you divide the loss of the words by the number of *all* positions. Most of them are not selected: take "
            "the mean over those that are, as NLLLoss with ignore_index does, or the words weigh too little.",
            "reduction='none', then mean() over everything",
        ),
        Mistake(
            "the mean of both",
            lambda *a: summed(*a) / 2,
            "this is the mean of the two losses. BERT trains on their sum; half of it is half the learning rate for "
            "plain gradient descent.",
            "Devlin et al. 2019, appendix A.2: the sum of the two means",
        ),
    ),
    hints=(
        "What does `ignore_index=0` do to a pair whose label is 0?",
        "Two criteria: one for the words, which ignores 0, and one for the pairs, which ignores nothing.",
        "`nn.NLLLoss()(pair_log_p, not_next)` for the pairs.",
    ),
    praise="Each loss ignores what *its* labels mark as nothing.",
    other_ways=(
        lambda w, y, p, n: F.nll_loss(w[y > 0], y[y > 0]) + F.nll_loss(p, n),
        lambda w, y, p, n: F.nll_loss(w.mT, y, ignore_index=0) - p.gather(1, n[:, None]).mean(),
    ),
)


# --- 07.5 bits per byte -----------------------------------------------------------------------------------------------


def text_to_price(generator):
    texts = ["naïve café, 5 µm", "Łódź → Kraków ½", "“γ-rays” cost 3 €"]
    text = texts[int(torch.randint(3, (), generator=generator))] * int(torch.randint(2, 5, (), generator=generator))
    return 2 + 3 * float(torch.rand((), generator=generator)), 11 + len(text) // 3, text


def right_bits(nats_per_token, n_tokens, text):
    return nats_per_token * n_tokens / math.log(2) / len(text.encode())


bits_per_byte = Exercise(
    id="07.5",
    right=right_bits,
    inputs=text_to_price,
    reads=lambda outcome: torch.as_tensor(outcome, dtype=torch.float64) if outcome is not None else None,
    mistakes=(
        Mistake(
            "characters",
            lambda nats, n, text: nats * n / math.log(2) / len(text),
            "len(text) counts characters. The text has letters of two and three bytes: len(text.encode()). For plain "
            "English the two agree, so nobody sees it until the first é.",
            "https://github.com/facebookresearch/adaptive-span/issues/17: bits per character and bits per byte",
        ),
        Mistake(
            "nats",
            lambda nats, n, text: nats * n / len(text.encode()),
            "these are nats per byte: divide by ln 2 for bits. torch's cross_entropy takes natural logarithms.",
            "https://github.com/EleutherAI/lm-evaluation-harness/pull/242: a published metric that was in nats",
        ),
        Mistake(
            "times ln 2",
            lambda nats, n, text: nats * n * math.log(2) / len(text.encode()),
            "you multiply by ln 2; divide. One nat is more than a bit: 1 / ln 2 = 1.44 bits.",
            "https://github.com/lucidrains/MEGABYTE-pytorch/issues/14: times log2 e, not times ln 2",
        ),
        Mistake(
            "the tokens forgotten",
            lambda nats, n, text: nats / math.log(2) / len(text.encode()),
            "the loss is a mean per token, and you divide it by all the bytes of the text. First multiply by the "
            "number of tokens: that is what the whole text costs.",
            "a mean taken for a sum",
        ),
        Mistake(
            "bits per token",
            lambda nats, n, text: nats / math.log(2),
            "these are bits per *token*. A tokenizer with longer tokens has a higher loss for each and needs fewer: "
            "multiply by the number of tokens, then divide by the bytes.",
            "https://github.com/thinking-machines-lab/tinker-cookbook/pull/823: loss per token across tokenizers",
        ),
    ),
    hints=(
        "What does the whole text cost, in nats? And in bits?",
        "The loss is a mean over tokens: times their number. One bit is ln 2 nats.",
        "`len(text.encode())` is the number of bytes.",
    ),
    praise="A number that no tokenizer can flatter, as long as it can say the text.",
    other_ways=(
        lambda nats, n, text: n * nats * math.log2(math.e) / len(text.encode("utf-8")),
        lambda nats, n, text: torch.tensor(nats * n / len(bytes(text, "utf-8"))) / torch.tensor(2.0).log(),
    ),
)
