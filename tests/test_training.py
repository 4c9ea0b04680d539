"""One training loop: it learns, repeats itself exactly, goes on exactly where it stopped, and says what went wrong."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from oracles import config, words
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nextbert_lite.core.contrastive import SentenceEncoder
from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.files import read_safetensors, write_safetensors
from nextbert_lite.training import loop
from nextbert_lite.training.batches import MLMBatches, PairBatches
from nextbert_lite.training.loop import History, adamw, fit, held_out_loss, linear_schedule

TOKENIZER = words(35)
STEPS = 12


def new_model(seed=0, **changes):
    torch.manual_seed(seed)
    return MaskedLanguageModel(Encoder(config(**{"dropout": 0.2, **changes})))


def new_batches(seed=0):
    """Texts that count: each word follows from its neighbours."""
    texts = [[2, *(5 + (i + k) % 35 for k in range(4 + i % 5)), 3] for i in range(40)]
    return MLMBatches(texts, TOKENIZER, batch_size=8, rate=0.3, seed=seed)


def train(model, steps=STEPS, batches=None, **options):
    settings = {"device": "cpu", "progress": False, "warmup": 3, "lr": 3e-3, **options}
    return fit(model, new_batches() if batches is None else batches, steps, **settings)


def trained(**options):
    """Return a new model after training."""
    model = new_model()
    train(model, **options)
    return model


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, other):
    """Whether two models, or one and stored weights, are equal bit for bit."""
    a, b = (weights(m) if isinstance(m, nn.Module) else m for m in (model, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Line(nn.Module):
    """The smallest model: y = ax + b."""

    def __init__(self, biases=1, **more):
        super().__init__()
        self.a = nn.Parameter(torch.ones(1, 1))
        self.b = nn.Parameter(torch.zeros(biases))
        for name, value in more.items():
            setattr(self, name, nn.Parameter(value))

    def loss(self, x, y):
        return ((x @ self.a + self.b - y) ** 2).mean()


def points(step):
    x = torch.rand(16, 1, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": 3 * x - 1}


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_loss_falls():
    texts = [[2, *[5 + i % 35] * 6, 3] for i in range(70)]  # one word, six times: easy to guess
    batches, held_out = (MLMBatches(texts, TOKENIZER, batch_size=8, rate=0.3, seed=seed) for seed in (0, 1))
    model = new_model(dropout=0.0, init_std="fan_in")
    before = held_out_loss(model, held_out, 5)
    history = train(model, steps=150, batches=batches, lr=1e-2, warmup=10)
    assert sum(history.loss[-10:]) < 0.3 * sum(history.loss[:10])
    assert held_out_loss(model, held_out, 5) < 0.3 * before


def test_mixed_precision_on_the_cpu_is_asked_for_and_keeps_the_weights_in_float32():
    seen = []

    class Watched(MaskedLanguageModel):
        def loss(self, **batch):
            handle = self.encoder.layers[0].ffn_in.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
            loss = super().loss(**batch)
            handle.remove()
            return loss

    for asked in (None, False, True):
        torch.manual_seed(0)
        model = Watched(Encoder(config()))
        train(model, steps=2, mixed_precision=asked)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert seen == [torch.float32] * 4 + [torch.bfloat16] * 2


def test_biases_and_norms_are_not_decayed_and_every_parameter_is_in_one_group():
    model = new_model()
    decayed, kept = adamw(model, 1e-3).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    assert decayed["betas"] == kept["betas"] == (0.9, 0.98)
    names = {id(p): name for name, p in model.named_parameters()}
    in_decayed, in_kept = ({names[id(p)] for p in group["params"]} for group in (decayed, kept))
    assert in_decayed | in_kept == set(names.values()) and not in_decayed & in_kept
    assert in_kept == {name for name in names.values() if name.endswith("bias") or "norm" in name}


def test_decay_shrinks_matrices_and_nothing_else(monkeypatch):
    monkeypatch.setattr(loop, "WEIGHT_DECAY", 0.5)
    model = new_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    adamw(model, lr=0.1).step()
    for name, parameter in model.named_parameters():
        expected = 1.0 if name.endswith("bias") or "norm" in name else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))


def test_frozen_parameters_stay():
    model = new_model()
    model.encoder.requires_grad_(False)
    before = weights(model)
    train(model)
    after = weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("encoder."))
    assert not torch.equal(before["head.dense.weight"], after["head.dense.weight"])


def test_the_rate_rises_to_its_peak_and_falls_to_zero_after_the_last_step():
    shares = [linear_schedule(step, 10, 4) for step in range(11)]
    assert shares == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    assert [linear_schedule(step, 4, 0) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 100), (10, 0), (10, 10), (10, 100), (1000, 30)])
def test_the_rate_is_never_zero_in_training_and_never_above_the_peak(steps, warmup):
    shares = [linear_schedule(step, steps, warmup) for step in range(steps)]
    assert min(shares) > 0 and max(shares) <= 1
    assert linear_schedule(steps, steps, warmup) == 0
    assert warmup > steps or max(shares) == 1


def test_the_history_holds_what_happened():
    batches = new_batches()
    history = train(new_model(), batches=batches, lr=0.01, warmup=4)
    assert history.steps == len(history.loss) == STEPS
    assert all(map(math.isfinite, history.loss))
    assert history.lr == pytest.approx([0.01 * linear_schedule(step, STEPS, 4) for step in range(STEPS)])
    assert history.tokens == [int(batches(step)["mask"].sum()) for step in range(STEPS)]  # real ones only
    assert history.seconds > 0 and not history.interrupted and history.evaluations == []
    assert History().steps == 0 and History().loss is not History().loss  # and each begins empty


def test_gradients_are_clipped_at_the_norm(monkeypatch):
    def norms(limit):
        """The gradient's norm as the optimizer sees it, step by step."""
        monkeypatch.setattr(loop, "CLIP", limit)
        seen = []

        def look(optimizer, *_):
            assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]  # it is `adamw`'s
            gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
            seen.append(float(torch.linalg.vector_norm(torch.cat(gradients))))

        handle = register_optimizer_step_pre_hook(look)
        try:
            train(new_model())
        finally:
            handle.remove()
        return seen

    assert loop.CLIP == 1.0
    free = norms(1e9)
    assert len(free) == STEPS and min(free) > 0.2  # there is something to clip
    assert norms(0.1) == pytest.approx([0.1] * STEPS, rel=1e-3)
    assert norms(1e6)[0] == pytest.approx(free[0])  # a norm below the limit is left alone


def test_evaluation_runs_in_eval_mode_every_so_many_steps_and_at_the_end():
    model, modes = new_model(), []

    def evaluate():
        modes.append((model.training, torch.is_grad_enabled()))
        return {"held out": float(len(modes))}

    history = train(model, evaluate=evaluate, evaluate_every=5)
    assert history.evaluations == [{"step": s, "held out": n} for s, n in ((5, 1.0), (10, 2.0), (12, 3.0))]
    assert set(modes) == {(False, False)}
    assert not model.training  # and afterwards the model is ready to use


def test_an_evaluation_that_draws_random_numbers_does_not_change_the_training(uninterrupted):
    drawing = trained(evaluate=lambda: {"noise": torch.rand(7).sum().item()}, evaluate_every=2)
    assert same(drawing, uninterrupted[0])


def test_gradients_left_by_hand_do_not_count(uninterrupted):
    model = new_model()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    train(model)
    assert same(model, uninterrupted[0])
    assert all(parameter.grad is None for parameter in model.parameters())  # none are left behind either


def test_a_batch_without_a_mask_trains_too():
    history = train(Line(), 20, points, lr=0.1, warmup=0)
    assert history.loss[-1] < history.loss[0] and history.tokens == [16] * 20


def test_real_tokens_are_counted_in_every_mask_of_a_batch():
    mask, other = torch.tensor([[True, True, False]] * 8), torch.tensor([[True] * 5] * 8)

    class Masked(Line):
        def loss(self, x, y, mask, other_mask, maskless):
            return super().loss(x, y)

    history = train(Masked(), 2, lambda step: {**points(step), "mask": mask, "other_mask": other, "maskless": other})
    assert history.tokens == [8 * 2 + 8 * 5] * 2


def test_the_held_out_loss_is_the_mean_over_all_selected_tokens():
    model, batches = new_model().eval(), new_batches()
    with torch.no_grad():
        parts = [(model.loss(**batches(s)).item(), int((batches(s)["labels"] != -100).sum())) for s in range(4)]
    expected = sum(loss * n for loss, n in parts) / sum(n for _, n in parts)
    model.train()
    assert held_out_loss(model, batches, 4) == pytest.approx(expected)  # without dropout
    assert model.training


NOTHING = {"ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[-100, -100]])}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: train(new_model(), steps=0, warmup=1), "steps is 0; it must be a whole number of at least 1"),
        (lambda: train(new_model(), steps=-1, warmup=1), "steps is -1; it must be a whole number of at least 1"),
        (lambda: train(new_model(), steps=2.5), "steps is 2.5; it must be a whole number"),
        (lambda: train(new_model(), warmup=-1), "warmup is -1; it must be a whole number of at least 0"),
        (lambda: train(new_model(), warmup=math.inf), "warmup is inf; it must be a whole number"),
        (lambda: train(new_model(), evaluate_every=0), "evaluate_every is 0; it must be a whole number of at least 1"),
        (lambda: train(new_model(), lr=-1.0), "lr is -1.0.*lr must be finite and more than 0"),
        (lambda: train(new_model(), lr=math.nan), "lr is nan"),
        (lambda: train(new_model(), batches=lambda step: {}), "the batch of step 0 is empty"),
        (lambda: train(new_model(), device="tpu"), "there is no device 'tpu' here"),
        (lambda: held_out_loss(new_model(), lambda step: NOTHING, 3), "no token was selected.*take more batches"),
        (lambda: train(new_model(), mixed_precision="no"), "mixed_precision is 'no'; it must be True, False or None"),
        (
            lambda: train(new_model().requires_grad_(False)),
            "nothing of this model learns: all its parameters are frozen",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


class Odd(Line):
    """Its loss is what `of` makes of each point's."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def loss(self, x, y):
        return self.of((x @ self.a + self.b - y) ** 2)


@pytest.mark.parametrize(
    "of",
    [lambda each: each, lambda each: each.mean().item(), lambda each: each.mean().detach(), lambda each: None],
    ids=["of each point", "a float", "detached", "nothing"],
)
def test_a_loss_that_cannot_be_minimised_is_told_in_words_and_the_weights_stay(of):
    model = Odd(of)
    with pytest.raises(TypeError, match=r"`model.loss` must give a mean with its graph, a tensor of shape"):
        train(model, batches=points)
    assert same(model, Line())


@pytest.mark.parametrize("batch", [[torch.ones(1)], (torch.ones(1), 0), {"x": [1.0]}], ids=["list", "tuple", "lists"])
def test_a_batch_that_is_no_dict_of_tensors_is_told_in_words(batch):
    with pytest.raises(TypeError, match=r"the batch of step 0 is no dict of tensors, the arguments of `model.loss`"):
        train(Line(), batches=lambda step: batch)


def test_what_an_evaluation_measures_may_be_a_tensor_and_is_kept_with_the_run(tmp_path):
    path = tmp_path / "run"
    history = train(Line(), batches=points, evaluate=lambda: {"loss": torch.tensor(0.5)}, checkpoint=path)
    assert history.evaluations == [{"step": STEPS, "loss": 0.5}]
    assert train(Line(), batches=points, checkpoint=path).evaluations == history.evaluations
    with pytest.raises(TypeError, match=r"`evaluate` gave 0\.5; it must give a dict of numbers"):
        train(Line(), batches=points, evaluate=lambda: 0.5)


# --- the same seed, the same weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted():
    model = new_model()
    history = train(model)
    return weights(model), history


def test_the_same_seed_gives_the_same_weights_bit_for_bit(uninterrupted):
    torch.manual_seed(999)  # what happened before does not matter
    torch.rand(17)
    model = new_model()
    torch.rand(3)
    assert train(model).loss == uninterrupted[1].loss
    assert same(model, uninterrupted[0])


def test_another_seed_draws_other_dropout_masks(uninterrupted):
    assert not same(trained(seed=1), uninterrupted[0])


def test_no_seed_leaves_torchs_generator_alone():
    models = new_model(), new_model(), new_model()
    for model, seed in zip(models, (5, 5, 6), strict=True):
        torch.manual_seed(seed)
        train(model, seed=None)
    assert same(models[0], models[1]) and not same(models[0], models[2])


# --- a loss that is not finite ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_weights(bad):
    model, good, seen = Line(), Line(), {}
    options = {"steps": 10, "lr": 0.01, "warmup": 2}

    def poisoned(step):
        batch = points(step)
        if step == 3:
            batch["x"][0] = bad
        return batch

    def watched(step):  # the weights at the beginning of each step
        seen[step] = weights(good)
        return points(step)

    train(good, batches=watched, **options)
    with pytest.raises(FloatingPointError, match=r"stopped at step 3: the loss is (nan|inf).*learning rate 0\.00") as e:
        train(model, batches=poisoned, **options)
    assert "too high" in str(e.value) and "keeps the weights it had before this step" in str(e.value)
    assert same(model, seen[3])

    fresh = Line()
    fresh.load_state_dict(weights(model))
    for each in (model, fresh):  # and nothing of it is left in the gradients
        train(each, batches=points, **options)
    assert same(model, fresh)


def test_weights_that_were_not_finite_before_are_named():
    model = new_model()
    with torch.no_grad():
        model.head.dense.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"step 0: .*not finite before this step \(first: head\.dense\.weight"):
        train(model)


def test_a_rate_that_is_far_too_high_is_told_so():
    model = Line()
    with pytest.raises(FloatingPointError, match="a learning rate that is too high"):
        train(model, 50, points, lr=1e30, warmup=0)
    assert all(p.isfinite().all() for p in model.parameters())


# --- stopping ---------------------------------------------------------------------------------------------------------


def stopping(at, times=1):
    """Batches during one of which Ctrl-C is pressed. (`raise_signal` is os.kill of oneself, on Windows too.)"""
    batches = new_batches()

    def with_interrupt(step):
        if step == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return batches(step)

    return with_interrupt


@pytest.fixture
def own_handler():
    """A handler of ours, which must be back after training, and its calls."""
    calls = []

    def handler(signum, frame):
        calls.append(signum)

    before = signal.signal(signal.SIGINT, handler)
    yield calls
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_after_the_running_step_and_keeps_the_weights(own_handler):
    model, other, seen, batches = new_model(), new_model(), {}, new_batches()

    def watched(step):
        seen[step] = weights(other)
        return batches(step)

    train(other, batches=watched)
    history = train(model, batches=stopping(at=4))
    assert history.interrupted and history.steps == 5
    assert same(model, seen[5])  # step 4 was finished, step 5 not begun
    assert not model.training and own_handler == []
    signal.raise_signal(signal.SIGINT)
    assert own_handler == [signal.SIGINT]


def test_a_second_ctrl_c_stops_at_once(own_handler):
    model = new_model()
    with pytest.raises(KeyboardInterrupt):
        train(model, batches=stopping(at=4, times=2))
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_handler_is_back_after_an_error_too(own_handler):
    def broken(step):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        train(new_model(), batches=broken)


def test_an_interrupted_run_is_evaluated_and_saved(tmp_path):
    path = tmp_path / "run.safetensors"
    history = train(new_model(), batches=stopping(at=4), checkpoint=path, evaluate=lambda: {"n": 1.0})
    assert history.evaluations == [{"step": 5, "n": 1.0}]
    assert path.is_file()


def test_training_stops_when_its_time_is_up():
    history = train(new_model(), stop_after=0.0)
    assert history.interrupted and history.steps == 1  # one step is always done
    history = train(new_model(), steps=1, stop_after=0.0)
    assert not history.interrupted  # it was done anyway


def test_training_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(train(new_model())))
    thread.start()
    thread.join()
    assert results[0].steps == STEPS


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def resumed(path):
    """Go on with another model's weights and another random state; return model, history and the steps asked for."""
    asked, batches, model = [], new_batches(), new_model(seed=5)
    torch.manual_seed(77)
    torch.rand(5)
    history = train(model, batches=lambda step: asked.append(step) or batches(step), checkpoint=path)
    return model, history, asked


@pytest.mark.parametrize("stop", [0, 2, 7])
def test_a_run_that_was_stopped_and_resumed_has_the_weights_of_the_one_that_never_stopped(
    stop, uninterrupted, tmp_path
):
    expected, whole = uninterrupted
    path = tmp_path / "deep" / "folder" / "run.safetensors"  # made on the way
    first = train(new_model(), batches=stopping(at=stop), checkpoint=path, checkpoint_every=100)
    assert first.interrupted and first.steps == stop + 1
    model, second, asked = resumed(path)
    assert asked == list(range(stop + 1, STEPS))  # nothing was done twice
    assert same(model, expected)
    assert (second.loss, second.lr, second.tokens) == (whole.loss, whole.lr, whole.tokens)
    assert not second.interrupted and second.seconds > first.seconds


def test_many_stops_change_nothing_either(uninterrupted, path):
    for run in range(STEPS):
        model = new_model(seed=run)  # only the first one's weights matter
        train(model, checkpoint=path, stop_after=0.0, evaluate=lambda: {"noise": torch.rand(3).sum().item()})
    assert same(model, uninterrupted[0])


def test_writing_checkpoints_changes_nothing_and_a_finished_run_is_only_loaded(uninterrupted, path):
    assert same(trained(checkpoint=path, checkpoint_every=1), uninterrupted[0])
    model, history, asked = resumed(str(path))
    assert asked == [] and history.steps == STEPS and same(model, uninterrupted[0])


@pytest.mark.parametrize("forgotten", ["state", "exp_avg", "exp_avg_sq", "step", "rng"])
def test_the_comparison_of_resumed_runs_catches_what_is_not_restored(forgotten, uninterrupted, saved, monkeypatch):
    load = loop.load_checkpoint

    def forgetful(path, model, optimizer, settings):
        history = load(path, model, optimizer, settings)
        if forgotten == "state":
            optimizer.state.clear()
        elif forgotten == "rng":
            torch.manual_seed(77)
        else:
            for state in optimizer.state.values():
                state[forgotten].zero_()
        return history

    monkeypatch.setattr(loop, "load_checkpoint", forgetful)
    assert not same(resumed(saved)[0], uninterrupted[0])


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import safetensors.torch
    from test_training import new_model, train

    path, how = Path(sys.argv[1]), sys.argv[2]
    write, saves = safetensors.torch.save_file, []

    def die(*_):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows this ends as abruptly

    def save_and_die(tensors, part, metadata):
        write(tensors, part, metadata)
        saves.append(part)
        if len(saves) == 3:  # the third checkpoint, after step 6
            if how == "half a file":
                whole = Path(part).read_bytes()
                Path(part).write_bytes(whole[: len(whole) // 2])
                die()
            os.replace = die  # the whole file, not yet in its place

    safetensors.torch.save_file = save_and_die
    train(new_model(), checkpoint=path, checkpoint_every=2)
    print("survived")
"""


@pytest.mark.parametrize("how", ["half a file", "before it is in place"])
def test_a_run_killed_while_it_writes_resumes_exactly(how, uninterrupted, path):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path), how],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and "survived" not in done.stdout and not done.stderr, done.stderr
    part, whole = sorted(file.name for file in path.parent.iterdir())
    assert whole == path.name and part.startswith(f".{path.name}.") and part.endswith(".part")
    model, history, asked = resumed(path)
    assert asked == list(range(4, STEPS))  # the second checkpoint, after step 4, was whole
    assert same(model, uninterrupted[0]) and history.loss == uninterrupted[1].loss


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_run_on_a_gpu_resumes_exactly_too(path):
    model = new_model(seed=5)
    train(new_model(), device="cuda", batches=stopping(at=4), checkpoint=path)
    train(model, device="cuda", checkpoint=path)
    assert same(trained(device="cuda"), model)


# --- checkpoints that are refused -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped_at_5(tmp_path_factory):
    """The bytes of an interrupted run's checkpoint."""
    path = tmp_path_factory.mktemp("stopped") / "run.safetensors"
    train(new_model(), batches=stopping(at=4), checkpoint=path)
    return path.read_bytes()


@pytest.fixture
def saved(stopped_at_5, path):
    """A checkpoint of an interrupted run."""
    path.write_bytes(stopped_at_5)
    return path


def refused(path, words, model=None, **options):
    """Training with this checkpoint raises ValueError; the model and the file are as they were."""
    model = new_model() if model is None else model
    before, content = weights(model), path.is_file() and path.read_bytes()
    with pytest.raises(ValueError, match=words):
        train(model, checkpoint=path, **options)
    assert same(model, before) and (path.is_file() and path.read_bytes()) == content


ENCODERS = {"width": 32, "layers": 3, "heads": 2, "norm": "pre", "dropout": 0.3, "eps": 1e-12}


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"steps": 20}, {}, "steps was 12, is now 20"),
        ({"lr": 0.5}, {}, r"lr was 0\.003, is now 0\.5"),
        ({"warmup": 4}, {}, "warmup was 3, is now 4"),
        ({"seed": 3}, {}, "seed was 0, is now 3"),
        ({"mixed_precision": True}, {}, "mixed_precision was False, is now True"),
        ({"lr": 0.5, "warmup": 4}, {}, r"lr was 0\.003, is now 0\.5, warmup was 3, is now 4\."),
        *(({}, {name: value}, f"{name} was .*, is now {value}") for name, value in ENCODERS.items()),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_all_that_differ_are_named(saved, options, changes, words):
    refused(saved, f"other settings: {words}.*[Tt]rain with the old ones", model=new_model(**changes), **options)


def test_a_sentence_encoders_run_does_not_go_on_with_another_pooling_or_temperature(path):
    def encoder(**options):
        torch.manual_seed(0)
        return SentenceEncoder(Encoder(config()), **options)

    pairs = PairBatches([([2, 5 + i, 3], [2, 6 + i, 3]) for i in range(8)], TOKENIZER, 4)
    train(encoder(), 3, pairs, checkpoint=path)
    for options, told in (
        ({"pooling": "cls"}, "pooling was mean, is now cls"),
        ({"temperature": 0.5, "symmetric": True}, "temperature was 0.05, is now 0.5, symmetric was False, is now True"),
    ):
        refused(path, f"other settings: {told}", model=encoder(**options), steps=3, batches=pairs)
    tensors, told = read_safetensors(path)  # as an older version wrote it
    settings = {k: v for k, v in json.loads(told["settings"]).items() if k not in loop.OF_LOSS}
    write_safetensors(path, tensors, told | {"settings": json.dumps(settings)})
    assert train(encoder(), 3, pairs, checkpoint=path).steps == 3


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Line(biases=2), r"1 parameters differ, first b \(there \(1,\), here \(2,\)\)"),  # `a` would fit, and stays
        (Line(c=torch.zeros(1)), r"1 parameters differ, first c \(there missing, here"),
    ],
)
def test_a_checkpoint_of_another_kind_of_model_is_refused_and_a_parameter_named(path, model, words):
    train(Line(), 3, points, checkpoint=path)
    refused(path, f"another model: {words}", model=model, steps=3, batches=points)


class Trap:
    """A pickle that, when it is read, fails the test."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was read",)


def in_its_place(path):
    path.unlink()
    path.mkdir()


WHOLE = r"run\.safetensors is damaged, or no whole safetensors file .*delete it, to start anew"
FOREIGN = r"is no checkpoint of `fit`\. Give another file name, or delete it"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        *(
            (lambda path, part=part: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)]), WHOLE)
            for part in (0.0, 0.0005, 0.5, 0.999)
        ),
        (lambda path: torch.save({"weights": torch.zeros(3), "trap": Trap()}, path), WHOLE),
        (
            lambda path: save_file({"weight": torch.zeros(3)}, path),
            "was not written by the course.*delete it, to start anew",
        ),
        (lambda path: save_file({"weight": torch.zeros(3)}, path, {"format": "pt"}), FOREIGN),
        (in_its_place, r"is a folder; a checkpoint is a file.*such as run\.safetensors"),
    ],
    ids=["empty", "a bit", "half", "nearly all", "a pickle", "foreign", "foreign with metadata", "a folder"],
)
def test_what_is_no_whole_checkpoint_is_refused(saved, damage, words):
    damage(saved)
    refused(saved, words)


# --- a write that fails -----------------------------------------------------------------------------------------------


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def failing(error, half=False):
    def fail(tensors=None, part=None, metadata=None):
        if half:
            Path(part).write_bytes(b"half a file")
        raise error

    return fail


@pytest.mark.parametrize(
    ("owner", "name", "replacement"),
    [
        (safetensors.torch, "save_file", failing(NO_SPACE, half=True)),
        (safetensors.torch, "save_file", failing(SafetensorError("I/O error: No space left on device"), half=True)),
        (os, "replace", failing(NO_SPACE)),
        (os, "fsync", failing(NO_SPACE)),
    ],
    ids=["writing", "writing, in Rust", "replacing", "flushing"],
)
def test_a_write_that_fails_leaves_the_old_file_whole_and_says_so(
    owner, name, replacement, saved, uninterrupted, monkeypatch
):
    before = saved.read_bytes()
    model = new_model(seed=5)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, replacement)
        with pytest.raises(OSError, match=r"could not write .*run\.safetensors: .*No space left.*Free some space"):
            train(model, checkpoint=saved)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == ["run.safetensors"]  # no .part
    assert same(model, uninterrupted[0])  # the last write failed: all steps were done, and are kept
    assert same(resumed(saved)[0], uninterrupted[0])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"could not write .*Free some space or choose another folder"):
        train(new_model(), checkpoint=tmp_path / "file" / "run.safetensors")


def test_a_file_of_weights_can_be_read_by_whom_any_new_file_can(path):
    write_safetensors(path, {"a": torch.zeros(1)}, {})
    path.with_name("new").touch()
    assert path.stat().st_mode == path.with_name("new").stat().st_mode
