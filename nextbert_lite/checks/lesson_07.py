"""The checks of lesson 07, What RoBERTa changed."""

import copy
import math
import random
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
    comparable,
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

SEQUENCES = 8192 * 100_000 / (256 * 1_000_000)  # 3.2 times as many
BERTS, ROBERTAS_LENGTH = 0.9 * 128 + 0.1 * 512, 512


class Factor(Prediction):
    """The prediction of a factor. A mistake is named where the guess is within 1.5 % of it, and of no other closer."""

    def matches(self, guess, value):
        if value == self.right or not comparable(guess, value):
            return super().matches(guess, value)
        nearest = min((m.wrong for m in self.mistakes), key=lambda wrong: abs(float(guess) - wrong))
        return value == nearest and abs(float(guess) - value) <= 0.015 * value


times_the_tokens = Factor(
    id="07.1",
    right=SEQUENCES * ROBERTAS_LENGTH / BERTS,  # 9.85
    tolerance=0.3,
    mistakes=(
        Mistake(
            "sequences in place of tokens",
            SEQUENCES,
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
        Mistake(
            "the factor of the text",
            16 / 13,
            "that is the factor of the *text*, 16 GB against 13 GB. How often a model goes over it is another matter: "
            "count the tokens of all steps.",
            "the size of a corpus taken for what was read",
        ),
        Mistake(
            "upside down",
            BERTS / (SEQUENCES * ROBERTAS_LENGTH),
            "that is BERT's number divided by RoBERTa's. The number grew: divide RoBERTa's by BERT's.",
            "the two exchanged",
        ),
        Mistake(
            "the proportions exchanged",
            SEQUENCES * ROBERTAS_LENGTH / (0.1 * 128 + 0.9 * 512),
            "you gave 90 % of BERT's steps the long sequences. 90 % had 128 tokens, and 10 % had 512.",
            "the two proportions exchanged",
        ),
        Mistake(
            "the length alone",
            ROBERTAS_LENGTH / BERTS,
            "that is only how much longer the sequences were. Their number grew too: multiply by steps and batch size.",
            "one of three factors",
        ),
        Mistake(
            "the steps forgotten",
            8192 * ROBERTAS_LENGTH / (256 * BERTS),
            "you left out the number of steps: RoBERTa made a tenth as many.",
            "tokens a step taken for tokens in all",
        ),
        Mistake(
            "the batch alone",
            32,
            "that is the batch size alone: 32 times as many sequences a step, but a tenth of the steps, and longer "
            "sequences.",
            "one of three factors",
        ),
        Mistake(
            "the short steps alone",
            SEQUENCES * ROBERTAS_LENGTH / (0.9 * 128),
            "you counted only BERT's steps with 128 tokens. The tenth of the steps with 512 tokens is missing.",
            "half of a sum",
        ),
        Mistake(
            "batch and length",
            128,
            "32 · 4 is the factor of batch size and length. The number of steps is missing, and a tenth of BERT's "
            "steps "
            "had 512 tokens.",
            "two of three factors",
        ),
        Mistake(
            "one less",
            SEQUENCES * ROBERTAS_LENGTH / BERTS - 1,
            "that is how much came on top, counted in BERT's number. The factor is one more.",
            "growth and factor confused",
        ),
        Mistake(
            "per cent",
            100 * SEQUENCES * ROBERTAS_LENGTH / BERTS,
            "that is in per cent. Give the factor itself.",
            "the unit of the answer",
        ),
        Mistake(
            "a difference",
            (8192 * 100_000 * 512 - 256 * 1_000_000 * BERTS) / 1e9,
            "that is the difference in billions of tokens. A factor is asked for: divide.",
            "difference and factor confused",
        ),
        Mistake(
            "RoBERTa's number",
            8192 * 100_000 * 512 / 1e9,
            "that is RoBERTa's number, in billions of tokens. Divide it by BERT's.",
            "the first half of the calculation",
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
    base_is="against",
    passes="its own",
    middle=statistics.fmean,
    steps_of="pairs",
    gives=lambda mean, error: (mean, error),
    spread_of=lambda error, n: error,
    by="name",
    raises=ValueError,
    says_name=True,
):
    """Return the loop of an ablation; each switch is a part that a learner may write otherwise."""

    def compare(run, conditions, seeds, against):
        against = next(iter(conditions)) if base_is == "the first" else against

        def changes(settings):
            pairs = ((value, conditions[against][key]) for key, value in settings.items())
            if by == "position":
                pairs = zip(settings.values(), conditions[against].values(), strict=True)
            return sum(value != other for value, other in pairs)

        def refuse(names):
            for name in names:
                n = changes(conditions[name])
                if name != against and (n > 1 if limit == "at most" else n != 1):
                    raise raises(f"{name if says_name else 'a condition'} differs from {against} in {n} settings.")

        if refuses == "before":
            refuse(conditions)
        losses = {name: [] for name in conditions}
        others = [name for name in conditions if name != against]
        if sets == "once":
            torch.manual_seed(next(iter(seeds)))
        for seed in over(seeds):
            if sets == "each seed":
                torch.manual_seed(seed)
            for number, name in enumerate(conditions if once else [part for o in others for part in (against, o)]):
                if sets == "each run" or (sets == "the others" and name != against):
                    torch.manual_seed(seed)
                if sets == "another":
                    torch.manual_seed(seed + number + 1)
                losses[name].append(run(seed=next(iter(seeds)) if passes == "the first" else seed, **conditions[name]))
                if sets == "afterwards":
                    torch.manual_seed(seed)
        if refuses == "after":
            refuse(conditions)
        n = len(seeds)
        found, names = {}, list(conditions)
        for place, name in enumerate(names):
            if name == against and not keeps:
                continue
            base = losses[names[place - 1] if base_is == "the one before" else against]
            base = base[:: 1 if once else max(1, len(others))]
            both = [(a, b) for a in losses[name] for b in base]
            if steps_of == "pairs":
                both = list(zip(losses[name], base, strict=True))
            if steps_of == "sorted":
                both = list(zip(sorted(losses[name]), sorted(base), strict=True))
            steps = [sign * (abs(a - b) if steps_of == "sizes" else a - b) for a, b in both]
            if steps_of == "sizes":
                steps = [abs(a - b) for a, b in zip(losses[name], base, strict=True)]
            if relative:
                steps = [step / b for step, (_, b) in zip(steps, both, strict=True)]
            m = len(steps)
            lists = {True: [steps], False: [losses[name]], "apart": [losses[name], base], "base": [base]}[paired]
            spread = sum((x - sum(of) / m) ** 2 for of in lists for x in of)
            error = math.sqrt(spread / (m - n_less)) / (math.sqrt(m) if root else 1) if m > n_less else math.nan
            found[name] = gives(middle(steps), spread_of(error, n))
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
    "no NSP": {"rate": 1e-4, "nsp": False},
    "BERT": {"rate": 1e-4, "nsp": True},
    "another rate": {"rate": 7e-4, "nsp": True},
}
SIZES = {
    f"batch {size}": {"batch": size, "masks": "dynamic"}
    for size in (256, 64, 16)  # each two differ in one setting
}


def noted(answer, generator, conditions=SIZES, seeds=(3, 5, 11), against="batch 64"):
    """Return what the answer gives on runs with known losses, and the list of the runs."""
    of_seed = {seed: float(torch.randn((), generator=generator)) for seed in seeds}
    log = []

    def run(seed, **settings):
        key = (seed, *sorted(settings.items()))
        log.append(key)
        if seed not in of_seed:
            raise Fault(f"a run was made with the seed {seed}; the seeds are {list(seeds)}.")
        number = sum(map(ord, repr(key[1:])))
        return 5 + of_seed[seed] + 0.1 * math.sin(number) + 0.8 * math.sin(31 * seed + number)

    names = ("run", "conditions", "seeds", "against")
    found = untouched(answer, run, copy.deepcopy(conditions), list(seeds), against, names=names)
    return found, log


def as_numbers(found):
    """Return the names and the numbers of a result, or say what it is in place of a dict of pairs."""
    if not isinstance(found, dict):
        raise Fault(
            f"expected a dict from the name of a condition to (mean, standard error); yours is {describe(found)}."
        )
    if any(isinstance(x, torch.Tensor) for pair in found.values() if isinstance(pair, tuple | list) for x in pair):
        raise Fault("the values of the dict hold tensors. Return pairs of floats: `.item()` makes a float.")
    try:
        return list(found), torch.tensor([[float(x) for x in pair] for pair in found.values()], dtype=torch.float64)
    except (TypeError, ValueError):
        raise Fault("the values of the dict should be pairs of two numbers, (mean, standard error).") from None


def names_found(answer, generator):
    try:
        found, _ = noted(answer, generator)
    except ValueError as error:
        raise Fault(
            f"your code refuses conditions that are all right ({error}). Each differs from `against` in one setting, "
            f"and "
            "`against` need not come first: compare the settings with its own."
        ) from None
    return as_numbers(found)[0]


def means(answer, generator):
    return as_numbers(noted(answer, generator)[0])[1][:, 0]


def errors(answer, generator):
    return as_numbers(noted(answer, generator)[0])[1][:, 1]


def each_once(answer, generator):
    log = noted(answer, generator)[1]
    return f"{len(log)} runs", f"{len(set(log))} different ones"


def same_start(answer, generator):
    """How torch's generator stands when a run begins."""
    unset, runs = 918_273_645, []
    torch.manual_seed(unset)
    torch.rand(3)  # what was drawn before must not look like a fresh seed

    def fresh(seed):
        return torch.Generator().manual_seed(seed).get_state()

    def run(seed, batch, masks):
        now = torch.initial_seed()
        state = now if torch.equal(torch.get_rng_state(), fresh(now)) else "used"
        runs.append((seed, batch, "unset" if now == unset else state))
        torch.rand(3)
        return float(seed)

    answer(run, copy.deepcopy(SIZES), [4, 9], "batch 64")
    right = [state == seed for seed, _, state in runs]
    of_base = [r for r, (_, batch, _) in zip(right, runs, strict=True) if batch == 64]
    of_others = [r for r, (_, batch, _) in zip(right, runs, strict=True) if batch != 64]
    left_over = [state in ("unset", "used") for _, _, state in runs]
    first = [seed not in [s for s, _, _ in runs[:i]] for i, (seed, _, _) in enumerate(runs)]
    behind = [state == before for (before, _, _), (_, _, state) in zip(runs, runs[1:], strict=False)]
    if all(right):
        return "torch's seed is set to the run's seed before each run"
    if all(state == "unset" for _, _, state in runs):
        return "torch's seed is never set"
    if all(behind) and not right[0]:
        return "torch's seed is set after each run"
    if all(of_others) and not any(of_base) and all(r or left for r, left in zip(right, left_over, strict=True)):
        return "torch's seed is set before each run but those of `against`"
    if right == first and all(r or left for r, left in zip(right, left_over, strict=True)):
        return "torch's seed is set once for each seed"
    if right[0] and not any(right[1:]) and all(state == "used" for _, _, state in runs[1:]):
        return "torch's seed is set once"
    if all(isinstance(state, int) for _, _, state in runs):
        return "torch's seed is set before each run, but to another number than the run's seed"
    return "some runs begin without torch's seed being set to theirs"


def one_change(answer, generator):
    """Two changes and no change are refused with ValueError, before anything runs; one change is not."""
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
        except Exception as error:  # noqa: BLE001 - a learner's code may raise anything; the fact reports it
            said.append(f"refused with {type(error).__name__}, not ValueError")
    turned = {name: dict(reversed(c.items())) if name == "no NSP" else c for name, c in THREE.items()}
    try:
        answer(lambda seed, **settings: 1.0, copy.deepcopy(turned), [1, 2], "BERT")
    except ValueError:
        said.append("a condition with one change is refused, because its settings stand in another order")
    return said


def compare_other_sizes(answer, generator):
    """Other names, settings and numbers of seeds; a baseline that is not the first; one seed."""
    four = {name: {"batch": size} for name, size in (("a", 16), ("b", 64), ("c", 256), ("d", 1024))}
    names, numbers = as_numbers(noted(answer, generator, four, (2, 0, 7, 1, 5), "c")[0])
    try:
        one, _ = noted(answer, generator, four, (8,), "a")
    except (ZeroDivisionError, statistics.StatisticsError) as error:
        raise Fault(
            f"with a single seed your code raises {type(error).__name__}: {error}. One run does not tell how far seeds "
            "scatter: the error is math.nan then."
        ) from None
    for pair in one.values() if isinstance(one, dict) else ():
        given = pair[1] if isinstance(pair, tuple | list) and len(pair) == 2 else math.nan
        if given is None or (isinstance(given, int | float) and not math.isnan(given)):
            raise Fault(
                f"with a single seed your standard error is {given}. One run does not tell how far seeds scatter: the "
                "error is math.nan then."
            )
    one_names, one_numbers = as_numbers(one)
    return names, numbers, one_names, one_numbers[:, 0]


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
            "seeded, but not the runs of `against`",
            loop(sets="the others"),
            "torch's seed is set before the runs of the other conditions, and not before those of `against`, which "
            "begin "
            "with whatever is left over. Set it before *each* run.",
            "a baseline made apart from the others",
        ),
        Mistake(
            "seeded with another number",
            loop(sets="another"),
            "torch's seed is set before each run, but to another number than the run's seed: the two runs of a seed "
            "then "
            "begin with different random numbers, or those of two seeds with the same. Use the seed itself.",
            "manual_seed(seed + number) or manual_seed(0)",
        ),
        Mistake(
            "seeded afterwards",
            loop(sets="afterwards"),
            "torch's seed is set *after* each run, so the first run begins without one and each other run with that of "
            "the run before it. Set it before each run.",
            "two lines exchanged",
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
        Mistake(
            "the first condition as `against`",
            loop(base_is="the first"),
            "you compare with the condition that comes first. Compare with `against`, which may stand anywhere.",
            "the baseline is often the first row of a table",
        ),
        Mistake(
            "each with the one before",
            loop(base_is="the one before"),
            "you compare each condition with the one before it. Compare each with `against`.",
            "tables such as Table 4 of Liu et al. 2019 add one step a row",
        ),
        Mistake(
            "one seed for all",
            loop(passes="the first"),
            "every run gets the first of the seeds: pass each run its own, `run(seed=seed, …)`.",
            "seeds[0] in place of the loop's variable",
        ),
        Mistake(
            "the median",
            loop(middle=statistics.median),
            "this is the median of the differences. The mean is wanted.",
            "Liu et al. 2019 report medians",
        ),
        Mistake(
            "error and mean exchanged",
            loop(gives=lambda mean, error: (error, mean)),
            "the pair is the wrong way round: (mean, error).",
            "two results exchanged",
        ),
        Mistake(
            "sorted first",
            loop(steps_of="sorted"),
            "you sort the losses before you subtract, so runs of different seeds are subtracted from one another. "
            "Subtract the losses of the *same* seed.",
            "a table sorted by loss",
        ),
        Mistake(
            "sizes of the differences",
            loop(steps_of="sizes"),
            "you take the absolute value of each difference. Keep the sign: a change may help in one seed and harm in "
            "another.",
            "how far, in place of which way",
        ),
        Mistake(
            "divided by n",
            loop(spread_of=lambda error, n: error / math.sqrt(n)),
            "the means are right. You divide the standard deviation by n; the error of the mean divides it by √n.",
            "a root forgotten",
        ),
        Mistake(
            "no root",
            loop(spread_of=lambda error, n: error**2),
            "the means are right. Your error is the variance divided by n: take the square root.",
            "variance and standard deviation taken for one another",
        ),
        Mistake(
            "twice the error",
            loop(spread_of=lambda error, n: 2 * error),
            "the means are right. You return twice the standard error. The error itself is wanted.",
            "the half width of an interval of about 95 %",
        ),
        Mistake(
            "all pairs of seeds",
            loop(steps_of="all"),
            "the means are right. You subtract every run of `against` from every run of the condition. Compare "
            "within a "
            "seed: what the two runs of a seed share then cancels.",
            "two nested loops over the seeds",
        ),
        Mistake(
            "spread of the baseline",
            loop(paired="base"),
            "the means are right. Your standard error is that of the losses of `against`: take the error of the "
            "*differences*.",
            "one list of losses taken for the other",
        ),
        Mistake(
            "settings by position",
            loop(by="position"),
            "a condition that changes one setting is refused when its settings stand in another order. Look each "
            "setting "
            "up by its name.",
            "zip(settings.values(), …)",
        ),
        Mistake(
            "another exception",
            loop(raises=AssertionError),
            "you refuse with an AssertionError. Raise a ValueError: who calls the function can expect that one.",
            "an assert in place of a raise",
        ),
        Mistake(
            "no name in the message",
            loop(says_name=False),
            "the message of your ValueError does not contain the name of the condition that is refused.",
            "a message without its cause",
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
    pick="each row",
    foreign_a="as always",
    foreign_b="behind the cut",
    heeds=("text", "label"),
    label_is="that of the row",
    own_masks=None,
    whole_a=True,
    first_cls=True,
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
            if pick == "by length":
                i = [d for d, document in enumerate(documents) for _ in document][draw(sum(map(len, documents)))]
            elif pick == "in order":
                i = number % len(documents)
            else:
                i = 0 if pick == "the first" else draw(len(documents) - (pick == "never the last"))
            cut = cuts(len(documents[i]), draw)
            if coins == "each row":
                threshold = rate if coin == "rate" else coin
                chance = random.random() if draws_from == "random" else torch.rand((), generator=source)
                foreign = bool(chance < threshold)
            else:
                foreign = same_coin if coins == "one" else halves_of_batch[number] % 2 == 1
            label = foreign and (mixed or "label" not in heeds)
            foreign = foreign and (mixed or "text" not in heeds)
            j, start = i, cut
            if foreign:
                if partner == "another":
                    j = (i + 1 + draw(len(documents) - 1)) % len(documents)
                elif partner == "not the last":  # a draw that stops one too early, made again where it gives i
                    while j == i:
                        j = draw(max(2, len(documents) - 1))
                elif partner in ("any", "any, else next", "any, else the one behind"):
                    j = draw(len(documents))
                    if j == i and partner == "any, else the one behind":
                        j = (j + 1) % len(documents)
                    if j == i and partner == "any, else next":
                        foreign = label = False
                elif partner == "beside":
                    j = (i + (1 if draw(2) else -1)) % len(documents)
                elif partner == "next":
                    j = (i + 1) % len(documents)
                if foreign:
                    start = cuts(len(documents[j]), draw) if own_cut is True else min(cut, len(documents[j]) - 1)
                    start = 0 if from_start else 1 if own_cut == "first" else start
            front = documents[i][:cut] if whole_a else documents[i][cut - 1 : cut]
            if foreign:
                front = {
                    "as always": front,
                    "first": documents[i][:1],
                    "before the cut": documents[i][cut - 1 : cut],
                    "all but the last": documents[i][:-1],
                    "whole": documents[i],
                    "behind the cut": documents[i][cut:],
                    "last": documents[i][-1:],
                }[foreign_a]
            a = [token for sentence in front for token in sentence]
            behind = documents[j][start if whole_b else -1 :][: 1 if whole_b == "next" else None]
            if foreign:
                joined = documents[i][cut:] + behind
                behind = {"front": documents[j][:start], "joined": joined, "one": behind[:1]}.get(foreign_b, behind)
            b = [token for sentence in behind for token in sentence]
            row = [*([cls_id] * first_cls), *a, *([sep_id] * between), *([cls_id] * second_cls), *b, *([sep_id] * end)]
            n_a = first_cls + len(a) + (0 if early else between)
            rows.append(row)
            types.append([first_type] * n_a + [first_type + 1] * (len(row) - n_a))
            if label_is == "drawn apart":
                label = mixed and bool(torch.rand((), generator=source) < coin)
            not_next.append(0 if label_is == "never 1" else int(label != turned))
        ids, mask = pad(rows, tokenizer.pad_id if pad_with is None else pad_with)
        corrupted, labels = mask_tokens(ids, tokenizer, own_rate or rate, generator)
        if own_masks:
            chosen = mask & (torch.rand(ids.shape, generator=generator) < rate)
            if own_masks == "words":
                chosen &= (ids != cls_id) & (ids != sep_id)
            corrupted, labels = ids.masked_fill(chosen, tokenizer.mask_id), ids.masked_fill(~chosen, IGNORE)
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
    batch = untouched(lambda d: answer(d, n, tokenizer, generator, *more, **named), documents, names=("documents",))
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


def look_at_the_labels(batch, real):
    """Fault for labels from which the words before masking cannot be read."""
    labels = batch["labels"]
    if int(((labels == 0) & real).sum()) > int(real.sum()) / 2:
        raise Fault("`labels` is 0 where no token was selected. It should be -100 there, as mask_tokens gives it.")
    if bool((labels == OWN.mask_id).any()):
        raise Fault(
            "`labels` holds the id of [MASK]. It should hold the tokens as they were before masking: call mask_tokens "
            "once, on the rows themselves, and take its second result as it is."
        )


def rows_made(answer, generator):
    documents, _ = library(generator)
    batch = made(answer, documents, 60, OWN, generator, mixed=False)
    mask, real = batch["mask"], batch["ids"] != OWN.pad_id
    look_at_the_labels(batch, real)
    if torch.equal(mask, ~real):
        raise Fault("`mask` is turned round: it should be True at real tokens and False at padding.")
    hidden = real & (batch["ids"] == OWN.mask_id)
    if hidden.any() and not mask[hidden].any() and mask[batch["ids"] == OWN.sep_id].all():
        raise Fault("`mask` is False where a token is masked. It should be True at each real token, [MASK] too.")
    prefix = mask == (torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True))
    padding = sorted(set(batch["ids"][~mask].tolist())) or [OWN.pad_id]  # rows of one length need none
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


def evenly(values, most):
    """Whether none of the values makes up more than this proportion of them."""
    return "evenly" if all(values.count(value) <= most * len(values) for value in set(values)) else "unevenly"


def segments(answer, generator):
    documents, where = library(generator, most=4, least=4)
    batch = made(answer, documents, 240, OWN, generator, mixed=False)
    told, cuts, used, foreign = set(), [], [], 0
    for row in originals(batch):
        a, b = (spans(half, where, documents) for half in halves(row, OWN))
        if a is None or b is None:
            told.add("A or B is not made of whole sentences in their order")
            continue
        if a[0] != b[0]:
            foreign += 1
            continue
        told.add("A begins with the document's first sentence" if a[1] == 0 else "A begins later")
        told.add("B begins where A ends" if b[:2] == (a[0], a[2]) else "B does not begin where A ends")
        told.add("B ends with the document" if b[2] == 4 else "B ends before the document does")
        cuts.append(a[2])
        used.append(a[0])
    return (
        "with mixed=False some rows are foreign" if foreign else "with mixed=False no row is foreign",
        sorted(told),
        f"A has {sorted(set(cuts))} of 4 sentences",
        f"{len(set(used))} of 6 documents are used",
    )


def typed(answer, generator):
    documents, _ = library(generator)
    batch = made(answer, documents, 60, OWN, generator, mixed=False)
    of_rows = [types[real].tolist() for types, real in zip(batch["types"], batch["mask"], strict=True)]
    patterns = {pattern(row, OWN, types) for row, types in zip(originals(batch), of_rows, strict=True)}
    padding = sorted(set(batch["types"][~batch["mask"]].tolist()))
    return f"the types are {sorted(patterns)}, {padding} for padding"


def mixed_pairs(answer, generator):
    documents, where = library(generator, n=5, most=4, least=4)
    batch = made(answer, documents, 900, OWN, generator)
    told, apart, cuts, foreign, fronts, others = set(), set(), set(), 0, set(), set()
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
            others.add(b[0])
            cuts.add((a[2], b[1]))
            fronts.add((a[1], a[2]))
            told.add("a foreign B ends with its document" if b[2] == 4 else "a foreign B ends before its document does")
    proportion = foreign / 900  # its standard error is 0.017
    unmixed = made(answer, documents, 40, OWN, generator, False)["not_next"]
    half = (
        "about half" if 0.44 < proportion < 0.56 else "about 40 %" if 0.35 < proportion <= 0.44 else f"{proportion:.0%}"
    )
    return (
        sorted(told),
        f"{half} of the pairs are foreign",
        f"the sentences of A on foreign rows: {[f'{first + 1} to {last}' for first, last in sorted(fronts)]}",
        f"the other document is {sorted(apart)} further on",
        f"{len(others)} of 5 documents are taken as the other one",
        f"a foreign B begins with the sentences {sorted({start for _, start in cuts})}",
        f"and independently of A's end: {len({a for a, _ in cuts}) * len({s for _, s in cuts}) == len(cuts)}",
        f"with mixed=False the labels are {sorted(set(unmixed.tolist()))}",
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


def how_often(answer, generator):
    """Whether all documents, cuts and other documents are drawn about equally often."""
    shorter, _ = library(generator, n=3, least=2, most=2)
    longer, of_long = library(generator, n=1, least=8, most=8, first=200)
    rows = originals(made(answer, shorter + longer, 300, OWN, generator, mixed=False))
    long_ones = sum(row[1] in of_long for row in rows)  # 1 of 4 documents, 8 of 14 sentences
    documents, where = library(generator, n=4, least=4, most=4)
    cuts, apart = [], []
    for row in originals(made(answer, documents, 1500, OWN, generator)):
        end = row.index(OWN.sep_id)
        (i, last), (j, _) = where[row[end - 1]], where[row[end + 1]]  # the last token of A, the first of B
        cuts.append(last)
        if i != j:
            apart.append((j - i) % 4)
    return (
        f"a long document is drawn {'as often as' if long_ones < 0.42 * len(rows) else 'more often than'} a short one",
        f"the cuts are {evenly(cuts, 0.43)} distributed",
        f"the other documents are {evenly(apart, 0.42)} distributed",
    )


def each_row_by_chance(answer, generator):
    """Which rows of a batch are foreign, how many of them, and which document comes first, in thirty batches."""
    documents, where = library(generator)
    batches = [made(answer, documents, 8, OWN, generator) for _ in range(30)]
    foreign = torch.stack([batch["not_next"] for batch in batches])
    first = {where[originals(batch)[0][1]][0] for batch in batches}
    fixed, numbers = bool((foreign == foreign[0]).all()), set(foreign.sum(1).tolist())
    return (
        f"a row's number {'tells' if fixed else 'does not tell'} whether it is foreign",
        f"the number of foreign pairs in a batch {'varies' if len(numbers) > 1 else 'is always the same'}",
        f"the document of the first row {'varies' if len(first) > 1 else 'is always the same'}",
        *how_often(answer, generator),
    )


def pair_other_sizes(answer, generator):
    """Another tokenizer, whose special ids are RoBERTa's; two documents of two sentences; one row."""
    documents, where = library(generator, n=2, least=2, most=2, first=10)
    batch = made(answer, documents, 40, ROBERTAS, generator, True, 0.5)
    labels = set()
    for row, label in zip(originals(batch), batch["not_next"].tolist(), strict=True):
        a, b = halves(row, ROBERTAS)
        labels.add((label, where[a[0]][0] != where[b[0]][0]))
    padding = sorted(set(batch["ids"][~batch["mask"]].tolist())) or [ROBERTAS.pad_id]
    one = made(answer, documents, 1, ROBERTAS, generator, False)
    patterns = {pattern(row, ROBERTAS) for row in originals(batch) + originals(one)}
    return (
        f"the rows are {sorted(patterns)}",
        f"padded with {padding}",
        f"(label, whether B is from another document): {sorted(labels)}",
        f"a single row with mixed=False has the label {int(one['not_next'])}",
    )


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
            "to cut, after sentence 1 … n - 1.",
            "torch.randint(n, …) where 1 … n - 1 was meant",
        ),
        Mistake(
            "always after the first sentence",
            pairing(cuts=lambda n, draw: 1),
            "A is always one sentence. Draw the cut among all n - 1 places, so that the model meets long and short A.",
            "google-research/bert, create_pretraining_data.py draws a_end with randint",
        ),
        Mistake(
            "a cut at the end",
            pairing(cuts=lambda n, draw: 1 + draw(n)),
            "some rows have an empty B: a cut after the last sentence leaves nothing behind it. A document of n "
            "sentences "
            "has n - 1 places to cut, after sentence 1 … n - 1.",
            "torch.randint(1, n + 1, …), one too far: the upper end is not included",
        ),
        Mistake(
            "never before the last sentence",
            pairing(cuts=lambda n, draw: 1 + draw(max(1, n - 2))),
            "no cut comes directly before the last sentence, in a document of three or more. There are n - 1 places, "
            "and "
            "the upper end of torch.randint is not included.",
            "an upper end that is one too low",
        ),
        Mistake(
            "no [CLS]",
            pairing(first_cls=False),
            "the [CLS] at the start of the row is missing: [CLS] A [SEP] B [SEP].",
            "Devlin et al. 2019, figure 2, read too quickly",
        ),
        Mistake(
            "a neighbour",
            pairing(partner="beside"),
            "the other document is always the one before or after i. Draw it among all others.",
            "negatives from nearby",
        ),
        Mistake(
            "always before the last sentence",
            pairing(cuts=lambda n, draw: n - 1),
            "A is always all but the last sentence. Draw the cut among all n - 1 places.",
            "document[:-1] and document[-1:]",
        ),
        Mistake(
            "A is one sentence",
            pairing(whole_a=False),
            "A does not begin with its document's first sentence. It is everything before the cut, and not the one "
            "sentence "
            "before it.",
            "the name of the task, next-sentence prediction, taken at its word",
        ),
        Mistake(
            "B is one sentence",
            pairing(whole_b=False),
            "B is only the last sentence of its document. It is everything after the cut: a *segment*, not a "
            "sentence. "
            "(With sentences the paper's model was worse: 82.9 against 84.0 on MNLI.)",
            "Liu et al. 2019, Table 2: sentence pairs and segment pairs",
        ),
        Mistake(
            "B is the next sentence",
            pairing(whole_b="next"),
            "B is only the one sentence after the cut. It is everything after the cut, up to the end of the "
            "document: a *segment*, not a sentence.",
            "the name of the task, next-sentence prediction, taken at its word",
        ),
        Mistake(
            "type 1 too early",
            pairing(early=True),
            "the first [SEP] has type 1. It belongs to A: type 0 up to and including the first [SEP].",
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
            "the other document is always the one after i, so a model can learn which documents go together. Draw it "
            "among all others.",
            "the first edition of this lesson took the row before",
        ),
        Mistake(
            "a foreign document from its start",
            pairing(from_start=True),
            "a foreign B is a whole document, from its first sentence on. A B that is next never begins so, and the "
            "model "
            "could tell the two by that. Cut document j at a place of its own and take what comes after it.",
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
            "the foreign pairs are in the same rows of every batch, so a row's number gives its label away. Each "
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
            "mixed=False is not heeded",
            pairing(heeds=()),
            "with mixed=False some rows are foreign. None should be.",
            "an argument that is never read",
        ),
        Mistake(
            "mixed=False for the text alone",
            pairing(heeds=("text",)),
            "with mixed=False some labels are 1, although B follows A in every row. All labels should be 0.",
            "an argument read in one of two places",
        ),
        Mistake(
            "the label drawn apart",
            pairing(label_is="drawn apart"),
            "the labels do not agree with the rows: you draw twice, once for the text and once for the label. Draw "
            "once "
            "a row.",
            "the same call written twice",
        ),
        Mistake(
            "the label never 1",
            pairing(label_is="never 1"),
            "foreign rows have the label 0 too. `not_next` is 1 there.",
            "a label that is forgotten in one branch",
        ),
        Mistake(
            "one document for all rows",
            pairing(pick="the first"),
            "all rows of a batch are from one document: draw i anew for each row.",
            "a draw outside the loop",
        ),
        Mistake(
            "never the last document",
            pairing(pick="never the last"),
            "one document is never drawn as i. The upper end of torch.randint is not included: "
            "`torch.randint(len(documents), …)` reaches the last one.",
            "randint(len(documents) - 1, …), as Python's random.randint would need",
        ),
        Mistake(
            "documents in order",
            pairing(pick="in order"),
            "the first row of each batch is always from the same document. Draw i, all documents equally likely: a "
            "row's "
            "number should not tell which one it is.",
            "documents[row % len(documents)]",
        ),
        Mistake(
            "long documents more often",
            pairing(pick="by length"),
            "documents with more sentences are drawn more often. Draw the document first, all equally likely, and then "
            "its cut.",
            "a sentence drawn from a flat list",
        ),
        Mistake(
            "the other document, never the last",
            pairing(partner="not the last"),
            "one document is never taken as the other one. The upper end of torch.randint is not included, so "
            "`torch.randint(len(documents) - 1, …)` reaches the last document only after a step over i.",
            "the - 1 of a step over i, without the step",
        ),
        Mistake(
            "the one behind where i is drawn again",
            pairing(partner="any, else the one behind"),
            "the document behind i is taken more often than the others: where you draw i again, you take that one. All "
            "others should be equally likely.",
            "j = (j + 1) % n where j == i",
        ),
        Mistake(
            "next where i is drawn again",
            pairing(partner="any, else next"),
            "fewer than half of the rows are foreign: where you draw i again, you make a row that is next. Draw among "
            "the documents that are not i.",
            "foreign = j != i",
        ),
        Mistake(
            "the same document with another cut",
            pairing(partner="the same"),
            "B of a foreign row is from document i itself. Take another document j.",
            "a second cut in place of a second document",
        ),
        Mistake(
            "always foreign",
            pairing(coin=1.0),
            "with `mixed=True` every pair is foreign. Each row is so with probability 1/2.",
            "the argument taken for the answer",
        ),
        Mistake(
            "foreign at the masking rate",
            pairing(coin="rate"),
            "rows are foreign with the probability `rate`, which is that of masking. It should be 1/2.",
            "the probability at hand",
        ),
        Mistake(
            "j cut after its first sentence",
            pairing(own_cut="first"),
            "a foreign B always begins with the second sentence of its document. Draw the cut of j as you draw that "
            "of i.",
            "a cut that is not drawn",
        ),
        Mistake(
            "a foreign B from the front",
            pairing(foreign_b="front"),
            "B of a foreign row is what comes *before* the cut of j. It is what comes after the cut, up to the end.",
            "the wrong half",
        ),
        Mistake(
            "a foreign B behind the rest of i",
            pairing(foreign_b="joined"),
            "B of a foreign row still holds the rest of document i, in front of that of j. It holds sentences of j "
            "alone.",
            "b += in place of b =",
        ),
        Mistake(
            "a foreign B of one sentence",
            pairing(foreign_b="one"),
            "B of a foreign row is one sentence. It is everything after the cut of j.",
            "one branch with a segment, the other with a sentence",
        ),
        *(
            Mistake(
                f"a foreign A: {part}",
                pairing(foreign_a=part),
                f"on foreign rows A is {shown}. A is everything before the cut of i, on *every* row.",
                "two branches written apart",
            )
            for part, shown in {
                "first": "the first sentence of document i alone",
                "before the cut": "the one sentence before the cut alone",
                "all but the last": "always all but the last sentence of document i",
                "whole": "the whole document i",
                "behind the cut": "what comes *after* a cut",
                "last": "the last sentence of document i",
            }.items()
        ),
        Mistake(
            "special tokens selected",
            pairing(own_masks="all"),
            "[CLS] and [SEP] are selected like words. They never are: mask_tokens leaves them alone.",
            "a masking of one's own, on the mask of real tokens",
        ),
        Mistake(
            "always [MASK]",
            pairing(own_masks="words"),
            "all selected tokens become [MASK]. 80 % do, 10 % become another token and 10 % stay: use mask_tokens.",
            "a masking of one's own",
        ),
        Mistake(
            "another source of chance",
            pairing(draws_from="random"),
            "a draw does not depend on `generator`, nor on torch's own: is it Python's `random`, or NumPy's? Draw with "
            "torch and `generator=generator`.",
            "random.random() for a single draw",
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
        "before it and those after it.",
        "[CLS] and the first [SEP] count to A: `types = [0] * (len(a) + 2) + [1] * (len(b) + 1)`.",
        "A document other than i: `j = (i + 1 + draw) % len(documents)` with a draw from 0 to `len(documents)` - 2.",
        "`ids, mask = pad(rows, tokenizer.pad_id)`, then `mask_tokens(ids, tokenizer, rate, generator)`; "
        "`pad(types, 0)[0]`.",
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


def trainable(answer, case):
    """Both heads must get a gradient from the sum."""
    words, _, pairs, _ = case
    try:
        total = answer(words.requires_grad_(), case[1], pairs.requires_grad_(), case[3])
    except RuntimeError:  # an argument is changed in place, which is told by itself
        return None
    if not isinstance(total, torch.Tensor):
        return f"it is {describe(total)}, which has no gradient: return the tensor, or nothing can be trained."
    if not total.requires_grad or None in torch.autograd.grad(total.sum(), (words, pairs), allow_unused=True):
        return "no gradient reaches both heads from it, so they cannot be trained: leave out `detach` and the like."
    return None


two_losses = Exercise(
    id="07.4",
    right=summed,
    limit=trainable,
    reads=lambda total: total.reshape(()) if isinstance(total, torch.Tensor) and total.numel() == 1 else total,
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
        Mistake(
            "the other label ignored",
            lambda *a: summed(*a, skip_pairs=1),
            "now the pairs with the label 1 are ignored: the bug turned round. The pairs need no ignore_index at all.",
            "another number in the same place",
        ),
        Mistake(
            "the two exchanged",
            lambda *a: summed(*a, skip_words=-100, skip_pairs=0),
            "the two are exchanged: now the words ignore nothing, and the pairs still ignore 0.",
            "two criteria exchanged",
        ),
        Mistake(
            "the labels turned round, and the bug",
            lambda w, y, p, n: summed(w, y, p, 1 - n, skip_pairs=0),
            "you turned the labels of the pairs round and kept ignore_index=0. Now the *other* pairs are left out, and "
            "the loss teaches the opposite.",
            "0 and 1 exchanged so that the other label is the one ignored",
        ),
        Mistake(
            "labels of 1 and 2",
            lambda w, y, p, n: summed(w, y, p, n + 1, skip_pairs=0),
            "not_next + 1 makes labels of 1 and 2, but the second head has two outputs, 0 and 1.",
            "labels moved away from the ignored one",
        ),
        Mistake(
            "classes in the last dimension",
            lambda w, y, p, n: F.nll_loss(w, y, ignore_index=0) + F.nll_loss(p, n),
            "NLLLoss expects the classes in dimension 1, and word_log_p has them in the last: keep the two `flatten`.",
            "torch's documentation of NLLLoss: input (N, C, d1, …)",
        ),
        Mistake(
            "sums",
            lambda w, y, p, n: (
                F.nll_loss(w.flatten(0, 1), y.flatten(), ignore_index=0, reduction="sum")
                + F.nll_loss(p, n, reduction="sum")
            ),
            "these are the sums over the words and over the pairs. Each loss is a mean.",
            "reduction='sum'",
        ),
        Mistake(
            "a sum over the pairs",
            lambda w, y, p, n: summed(w, y, p, n) + (len(n) - 1) * F.nll_loss(p, n),
            "the loss of the pairs is a sum. Take the mean over the pairs.",
            "reduction='sum'",
        ),
        Mistake(
            "the words alone",
            lambda w, y, p, n: F.nll_loss(w.mT, y, ignore_index=0),
            "the loss of the pairs is missing.",
            "the faulty half taken away",
        ),
        Mistake(
            "the pairs alone",
            lambda w, y, p, n: F.nll_loss(p, n),
            "the loss of the words is missing.",
            "only the mended half returned",
        ),
        Mistake(
            "no minus",
            lambda *a: -summed(*a),
            "the sign is wrong: a loss is the *negative* log-probability.",
            "the mean of the log-probabilities",
        ),
        Mistake(
            "a mean of means",
            lambda w, y, p, n: (
                -((w.gather(2, y[..., None])[..., 0] * (y > 0)).sum(1) / (y > 0).sum(1).clamp(min=1)).mean()
                + F.nll_loss(p, n)
            ),
            "you average over each text first, so a word in a text with few selected ones weighs more. Take one mean "
            "over "
            "all selected words.",
            "a mean for each row, then a mean over rows",
        ),
        Mistake(
            "the others counted as word 0",
            lambda w, y, p, n: F.nll_loss(w.mT, y, reduction="sum") / (y > 0).sum() + F.nll_loss(p, n),
            "you divide by the number of the selected words, but add up the losses of all: the others are counted as "
            "word 0.",
            "the mask used in one of two places",
        ),
        Mistake(
            "texts and positions mixed",
            lambda w, y, p, n: (
                F.nll_loss(w.transpose(0, 1).flatten(0, 1), y.flatten(), ignore_index=0) + F.nll_loss(p, n)
            ),
            "log-probabilities and labels no longer belong together: one goes through the texts first, the other "
            "through "
            "the positions.",
            "transpose(0, 1) where transpose(1, 2) was meant",
        ),
        Mistake(
            "probabilities",
            lambda w, y, p, n: summed(w, y, p.exp(), n),
            "NLLLoss takes log-probabilities. You give it the probabilities of the pairs.",
            "torch's documentation of NLLLoss",
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
        lambda w, y, p, n: (F.cross_entropy(w[y > 0], y[y > 0]) + F.cross_entropy(p, n)).reshape(1),
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
            "you count one byte for each character. The text has some of two and three bytes: len(text.encode()). "
            "For plain "
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
        Mistake(
            "bits per bit",
            lambda nats, n, text: right_bits(nats, n, text) / 8,
            "you divide by 8 as well. The unit is bits per *byte*, so 8 stands for no compression.",
            "the compression ratio taken for it",
        ),
        Mistake(
            "bytes per bit",
            lambda nats, n, text: 1 / right_bits(nats, n, text),
            "this is upside down: bytes per bit.",
            "a fraction turned round",
        ),
        Mistake(
            "divided by the tokens",
            lambda nats, n, text: right_bits(nats, n, text) / n**2,
            "you divide by the number of tokens. The loss is a mean per token: multiply, and you have what the whole "
            "text "
            "costs.",
            "a mean taken for a sum",
        ),
        Mistake(
            "words",
            lambda nats, n, text: nats * n / math.log(2) / len(text.split()),
            "you divide by the number of words: these are bits per word.",
            "another unit of text",
        ),
        Mistake(
            "one token less",
            lambda nats, n, text: nats * (n - 1) / math.log(2) / len(text.encode()),
            "you take one token less. n_tokens is the number of losses that the mean was taken over.",
            "a first token without a loss, subtracted twice",
        ),
        Mistake(
            "UTF-16",
            lambda nats, n, text: nats * n / math.log(2) / len(text.encode("utf-16")),
            "you count the bytes of UTF-16, which has two or more for each character. The text asks for UTF-8.",
            "another encoding",
        ),
        Mistake(
            "log10",
            lambda nats, n, text: nats * n / math.log10(2) / len(text.encode()),
            "you divide by log10(2). A nat is 1 / ln 2 bits: math.log(2).",
            "calculators and spreadsheets call log10 log",
        ),
        Mistake(
            "ASCII alone",
            lambda nats, n, text: nats * n / math.log(2) / len(text.encode("ascii", "ignore")),
            "characters outside ASCII are dropped, so their bytes are missing.",
            "encode('ascii', 'ignore')",
        ),
        Mistake(
            "rounded",
            lambda nats, n, text: round(right_bits(nats, n, text), 2),
            "the result is rounded. Return it as it is, and round where you print it.",
            "round(…, 2)",
        ),
        Mistake(
            "cut off",
            lambda nats, n, text: nats * n / math.log(2) // len(text.encode()),
            "`//` cuts off the fraction: divide with `/`.",
            "whole-number division",
        ),
        Mistake(
            "characters as tokens",
            lambda nats, n, text: nats * len(text) / math.log(2) / len(text.encode()),
            "you multiply by the number of characters. The loss is a mean over n_tokens tokens.",
            "len of the wrong thing",
        ),
        Mistake(
            "without blanks",
            lambda nats, n, text: nats * n / math.log(2) / len(text.replace(" ", "").encode()),
            "you leave the blanks out. They are bytes of the text, too.",
            "a text cleaned before it is counted",
        ),
        Mistake(
            "two to its power",
            lambda nats, n, text: 2 ** right_bits(nats, n, text),
            "this is 2 to the power of the bits per byte, a perplexity. The bits themselves are wanted.",
            "perplexity and entropy confused",
        ),
        Mistake(
            "the logarithm of the loss",
            lambda nats, n, text: math.log2(nats) * n / len(text.encode()),
            "you take the logarithm of the loss, which is a logarithm already. Multiply by 1 / ln 2 for bits.",
            "log2 in place of / ln 2",
        ),
        Mistake(
            "the logarithm of the sum",
            lambda nats, n, text: math.log2(nats * n) / len(text.encode()),
            "you take the logarithm of what the text costs, which is a sum of logarithms already. Multiply it by "
            "1 / ln 2 for bits.",
            "log2 in place of / ln 2",
        ),
    ),
    hints=(
        "What does the whole text cost, in nats? And in bits?",
        "The loss is a mean over tokens: times their number. One bit is ln 2 nats.",
        "`len(text.encode())` is the number of bytes.",
    ),
    praise="A number that no tokenizer can flatter, as long as the tokenizer can encode the whole text.",
    other_ways=(
        lambda nats, n, text: n * nats * math.log2(math.e) / len(text.encode("utf-8")),
        lambda nats, n, text: torch.tensor(nats * n / len(bytes(text, "utf-8"))) / torch.tensor(2.0).log(),
    ),
)
