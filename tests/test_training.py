"""One training loop: it learns, repeats itself exactly, goes on exactly where it stopped, and says what went wrong."""

import errno
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from oracles import config, words
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nextbert_lite.core.encoder import Encoder
from nextbert_lite.core.heads import MaskedLanguageModel
from nextbert_lite.training import loop
from nextbert_lite.training.batches import MLMBatches
from nextbert_lite.training.loop import History, adamw, fit, held_out_loss, linear_schedule

TOKENIZER = words(35)
STEPS = 12


def new_model(seed=0, **changes):
    torch.manual_seed(seed)
    return MaskedLanguageModel(Encoder(config(**{"dropout": 0.2, **changes})))


def counting_texts(n=40):
    """Texts that count: each word follows from its neighbours."""
    return [[2, *(5 + (i + k) % 35 for k in range(4 + i % 5)), 3] for i in range(n)]


def new_batches(seed=0):
    return MLMBatches(counting_texts(), TOKENIZER, batch_size=8, rate=0.3, seed=seed)


def train(model, steps=STEPS, batches=None, **options):
    settings = {"device": "cpu", "progress": False, "warmup": 3, "lr": 3e-3, **options}
    return fit(model, new_batches() if batches is None else batches, steps, **settings)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Line(nn.Module):
    """The smallest model: y = ax + b."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones(1, 1))
        self.b = nn.Parameter(torch.zeros(1))

    def loss(self, x, y):
        return ((x @ self.a + self.b - y) ** 2).mean()


def points(step):
    x = torch.rand(16, 1, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": 3 * x - 1}


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_loss_falls():
    texts = [[2, *[5 + i % 35] * 6, 3] for i in range(70)]  # one word, six times: easy to guess
    batches, held_out = (MLMBatches(texts, TOKENIZER, batch_size=8, rate=0.3, seed=seed) for seed in (0, 1))
    model = new_model(dropout=0.0)
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
    decayed, kept = adamw(model, 1e-3, 0.1, (0.9, 0.98)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    in_decayed, in_kept = ({names[id(p)] for p in group["params"]} for group in (decayed, kept))
    assert in_decayed | in_kept == set(names.values()) and not in_decayed & in_kept
    assert in_kept == {name for name in names.values() if name.endswith("bias") or "norm" in name}


def test_decay_shrinks_matrices_and_nothing_else():
    model = new_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    adamw(model, lr=0.1, weight_decay=0.5, betas=(0.9, 0.98)).step()
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


def gradient_norms(**options):
    """The gradient's norm as the optimizer sees it, step by step."""
    norms = []

    def look(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))))

    handle = register_optimizer_step_pre_hook(look)
    try:
        train(new_model(), **options)
    finally:
        handle.remove()
    return norms


def test_gradients_are_clipped_at_the_norm():
    free, clipped = gradient_norms(clip=1e9), gradient_norms(clip=0.1)
    assert len(free) == STEPS and min(free) > 0.2  # there is something to clip
    assert clipped == pytest.approx([0.1] * STEPS, rel=1e-3)
    # a norm below the limit is left alone
    assert gradient_norms(clip=1e6)[0] == pytest.approx(free[0])


def test_evaluation_runs_in_eval_mode_every_so_many_steps_and_at_the_end():
    model, modes = new_model(), []

    def evaluate():
        modes.append((model.training, torch.is_grad_enabled()))
        return {"held out": float(len(modes))}

    history = train(model, evaluate=evaluate, evaluate_every=5)
    assert history.evaluations == [{"step": s, "held out": n} for s, n in ((5, 1.0), (10, 2.0), (12, 3.0))]
    assert set(modes) == {(False, False)}
    assert not model.training  # and afterwards the model is ready to use


def test_an_evaluation_that_draws_random_numbers_does_not_change_the_training():
    model, other = new_model(), new_model()
    train(model)
    train(other, evaluate=lambda: {"noise": torch.rand(7).sum().item()}, evaluate_every=2)
    assert equal(weights(model), weights(other))


def test_gradients_left_by_hand_do_not_count():
    model, other = new_model(), new_model()
    train(model)
    for parameter in other.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    train(other)
    assert equal(weights(model), weights(other))
    assert all(parameter.grad is None for parameter in model.parameters())  # none are left behind either


def test_a_batch_without_a_mask_trains_too():
    history = fit(Line(), points, 20, lr=0.1, warmup=0, device="cpu", progress=False)
    assert history.loss[-1] < history.loss[0] and history.tokens == [16] * 20


def test_real_tokens_are_counted_in_every_mask_of_a_batch():
    mask, other = torch.tensor([[True, True, False]] * 8), torch.tensor([[True] * 5] * 8)

    class Masked(Line):
        def loss(self, x, y, mask, other_mask, maskless):
            return super().loss(x, y)

    def batches(step):
        return {**points(step), "mask": mask, "other_mask": other, "maskless": other}

    history = fit(Masked(), batches, 2, device="cpu", progress=False)
    assert history.tokens == [8 * 2 + 8 * 5] * 2


@pytest.mark.parametrize(("steps", "warmup"), [(0, 1), (-1, 1), (5, -1)])
def test_impossible_steps_are_refused(steps, warmup):
    with pytest.raises(ValueError, match=rf"steps is {steps} and warmup {warmup}; steps must be at least 1"):
        train(new_model(), steps=steps, warmup=warmup)


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="there is no device 'tpu' here"):
        train(new_model(), device="tpu")


def test_the_held_out_loss_is_the_mean_over_all_selected_tokens():
    model, batches = new_model().eval(), new_batches()
    with torch.no_grad():
        parts = [(model.loss(**batches(s)).item(), int((batches(s)["labels"] != -100).sum())) for s in range(4)]
    expected = sum(loss * n for loss, n in parts) / sum(n for _, n in parts)
    model.train()
    assert held_out_loss(model, batches, 4) == pytest.approx(expected)  # without dropout
    assert model.training


def test_a_held_out_loss_without_a_selected_token_is_refused():
    nothing = {"ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[-100, -100]])}
    with pytest.raises(ValueError, match=r"no token was selected.*take more batches"):
        held_out_loss(new_model(), lambda step: nothing, 3)


# --- the same seed, the same weights ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    model, other = new_model(), new_model()
    history = train(model)
    torch.manual_seed(999)  # what happened before does not matter
    torch.rand(17)
    assert train(other).loss == history.loss
    assert equal(weights(model), weights(other))


def test_another_seed_draws_other_dropout_masks():
    model, other = new_model(), new_model()
    train(model)
    train(other, seed=1)
    assert not equal(weights(model), weights(other))


def test_no_seed_leaves_torchs_generator_alone():
    model, other, third = new_model(), new_model(), new_model()
    for each, seed in ((model, 5), (other, 5), (third, 6)):
        torch.manual_seed(seed)
        train(each, seed=None)
    assert equal(weights(model), weights(other)) and not equal(weights(model), weights(third))


# --- a loss that is not finite ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_weights(bad):
    model, good = Line(), Line()
    options = {"lr": 0.01, "warmup": 2, "device": "cpu", "progress": False}

    def poisoned(step):
        batch = points(step)
        if step == 3:
            batch["x"][0] = bad
        return batch

    seen = {}

    def watched(step):  # the weights at the beginning of each step
        seen[step] = weights(good)
        return points(step)

    fit(good, watched, 10, **options)
    with pytest.raises(FloatingPointError, match=r"stopped at step 3: the loss is (nan|inf).*learning rate 0\.00") as e:
        fit(model, poisoned, 10, **options)
    assert "too high" in str(e.value) and "keeps the weights it had before this step" in str(e.value)
    assert equal(weights(model), seen[3])

    fresh = Line()
    fresh.load_state_dict(weights(model))
    fit(model, points, 10, **options)  # and nothing of it is left in the gradients
    fit(fresh, points, 10, **options)
    assert equal(weights(model), weights(fresh))


def test_weights_that_were_not_finite_before_are_named():
    model = new_model()
    with torch.no_grad():
        model.head.dense.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"step 0: .*not finite before this step \(first: head\.dense\.weight"):
        train(model)


def test_a_rate_that_is_far_too_high_is_told_so():
    model = Line()
    with pytest.raises(FloatingPointError, match="a learning rate that is too high"):
        fit(model, points, 50, lr=1e30, warmup=0, device="cpu", progress=False)
    assert all(p.isfinite().all() for p in model.parameters())


# --- stopping ---------------------------------------------------------------------------------------------------------


def stopping(at, times=1, batches=None):
    """Batches during one of which Ctrl-C is pressed. (`raise_signal` is os.kill of oneself, on Windows too.)"""
    batches = new_batches() if batches is None else batches

    def with_interrupt(step):
        if step == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return batches(step)

    return with_interrupt


@pytest.fixture
def own_handler():
    """A handler of ours, which must be back after training."""
    calls = []

    def handler(signum, frame):
        calls.append(signum)

    before = signal.signal(signal.SIGINT, handler)
    yield handler, calls
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_after_the_running_step_and_keeps_the_weights(own_handler):
    handler, calls = own_handler
    model, seen = new_model(), {}
    batches = new_batches()

    def watched(step):
        seen[step] = weights(other)
        return batches(step)

    other = new_model()
    train(other, batches=watched)
    history = train(model, batches=stopping(at=4))
    assert history.interrupted and history.steps == 5
    assert equal(weights(model), seen[5])  # step 4 was finished, step 5 not begun
    assert not model.training and calls == []
    assert signal.getsignal(signal.SIGINT) is handler
    signal.raise_signal(signal.SIGINT)
    assert calls == [signal.SIGINT]


def test_a_second_ctrl_c_stops_at_once(own_handler):
    model = new_model()
    with pytest.raises(KeyboardInterrupt):
        train(model, batches=stopping(at=4, times=2))
    assert signal.getsignal(signal.SIGINT) is own_handler[0]
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_handler_is_back_after_an_error_too(own_handler):
    def broken(step):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        train(new_model(), batches=broken)
    assert signal.getsignal(signal.SIGINT) is own_handler[0]


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


@pytest.fixture(scope="module")
def uninterrupted():
    model = new_model()
    history = train(model)
    return weights(model), history


@pytest.mark.parametrize("stop", [0, 2, 7])
def test_a_run_that_was_stopped_and_resumed_has_the_weights_of_the_one_that_never_stopped(
    stop, uninterrupted, tmp_path
):
    expected, whole = uninterrupted
    path = tmp_path / "deep" / "folder" / "run.safetensors"  # made on the way
    first = train(new_model(), batches=stopping(at=stop), checkpoint=path, checkpoint_every=100)
    assert first.interrupted and first.steps == stop + 1
    model = new_model(seed=5)  # its own weights do not matter
    torch.manual_seed(77)
    torch.rand(5)
    asked = []
    batches = new_batches()
    second = train(model, batches=lambda step: asked.append(step) or batches(step), checkpoint=path)
    assert asked == list(range(stop + 1, STEPS))  # nothing was done twice
    assert equal(weights(model), expected)
    assert (second.loss, second.lr, second.tokens) == (whole.loss, whole.lr, whole.tokens)
    assert not second.interrupted and second.seconds > first.seconds


def test_many_stops_change_nothing_either(uninterrupted, tmp_path):
    path = tmp_path / "run.safetensors"
    for run in range(STEPS):
        model = new_model(seed=run)  # only the first one's weights matter
        train(model, checkpoint=path, stop_after=0.0, evaluate=lambda: {"noise": torch.rand(3).sum().item()})
    assert equal(weights(model), uninterrupted[0])


def test_writing_checkpoints_changes_nothing(uninterrupted, tmp_path):
    model = new_model()
    train(model, checkpoint=tmp_path / "run.safetensors", checkpoint_every=1)
    assert equal(weights(model), uninterrupted[0])


def test_a_finished_run_is_only_loaded(uninterrupted, tmp_path):
    path = tmp_path / "run.safetensors"
    train(new_model(), checkpoint=path)
    model = new_model(seed=5)
    history = train(model, batches=lambda step: pytest.fail("trained on"), checkpoint=str(path))
    assert history.steps == STEPS and equal(weights(model), uninterrupted[0])


@pytest.mark.parametrize(
    "forgotten", ["optimizer.", "optimizer.exp_avg.", "optimizer.exp_avg_sq.", "optimizer.step.", "rng."]
)
def test_the_comparison_of_resumed_runs_catches_what_is_not_restored(forgotten, uninterrupted, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    train(new_model(), batches=stopping(at=7), checkpoint=path)
    if forgotten == "rng.":
        monkeypatch.setattr(loop, "set_rng_states", lambda states: None)
    elif forgotten == "optimizer.":
        monkeypatch.setattr(loop, "load_checkpoint", without_optimizer(loop.load_checkpoint))
    else:
        monkeypatch.setattr(loop, "load_checkpoint", zeroed(loop.load_checkpoint, forgotten.split(".")[1]))
    model = new_model()
    torch.manual_seed(77)
    train(model, checkpoint=path)
    assert not equal(weights(model), uninterrupted[0])


def without_optimizer(load):
    def wrapped(path, model, optimizer, settings):
        history = load(path, model, optimizer, settings)
        optimizer.state.clear()
        return history

    return wrapped


def zeroed(load, key):
    def wrapped(path, model, optimizer, settings):
        history = load(path, model, optimizer, settings)
        for state in optimizer.state.values():
            state[key].zero_()
        return history

    return wrapped


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from nextbert_lite import training
    from test_training import new_model, train

    path, how = Path(sys.argv[1]), sys.argv[2]
    write, saves = training.save_file, []

    def die():
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows this ends as abruptly

    def save_and_die(tensors, part, metadata):
        write(tensors, part, metadata)
        saves.append(part)
        if len(saves) == 3:  # the third checkpoint, after step 6
            if how == "half a file":
                whole = Path(part).read_bytes()
                Path(part).write_bytes(whole[: len(whole) // 2])
                die()
            training.os.replace = lambda *_: die()  # the whole file, not yet in its place

    training.save_file = save_and_die
    train(new_model(), checkpoint=path, checkpoint_every=2)
    print("survived")
"""


def test_a_file_of_weights_can_be_read_by_whom_any_new_file_can(tmp_path):
    (tmp_path / "new").touch()
    loop.write_safetensors(tmp_path / "run.safetensors", {"a": torch.zeros(1)}, {})
    modes = [(tmp_path / name).stat().st_mode for name in ("new", "run.safetensors")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("how", ["half a file", "before it is in place"])
def test_a_run_killed_while_it_writes_resumes_exactly(how, uninterrupted, tmp_path):
    path = tmp_path / "run.safetensors"
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path), how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and "survived" not in done.stdout and not done.stderr, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.safetensors", "run.safetensors.part"]
    asked, batches = [], new_batches()
    model = new_model(seed=5)
    history = train(model, batches=lambda step: asked.append(step) or batches(step), checkpoint=path)
    assert asked == list(range(4, STEPS))  # the second checkpoint, after step 4, was whole
    assert equal(weights(model), uninterrupted[0]) and history.loss == uninterrupted[1].loss
    assert not path.with_name("run.safetensors.part").exists()  # the next write takes its place


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_run_on_a_gpu_resumes_exactly_too(tmp_path):
    whole, resumed = new_model(), new_model(seed=5)
    train(whole, device="cuda")
    train(new_model(), device="cuda", batches=stopping(at=4), checkpoint=tmp_path / "run.safetensors")
    train(resumed, device="cuda", checkpoint=tmp_path / "run.safetensors")
    assert equal(weights(whole), weights(resumed))


# --- checkpoints that are refused -------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of an interrupted run."""
    path = tmp_path / "run.safetensors"
    train(new_model(), batches=stopping(at=4), checkpoint=path)
    return path


def refused(path, match, model=None, **options):
    """Training with this checkpoint raises ValueError; the model and the file are as they were."""
    model = new_model() if model is None else model
    before, content = weights(model), path.read_bytes()
    with pytest.raises(ValueError, match=match):
        train(model, checkpoint=path, **options)
    assert equal(weights(model), before) and path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "value", "was"),
    [
        ("steps", 20, 12),
        ("lr", 0.5, 0.003),
        ("warmup", 4, 3),
        ("weight_decay", 0.2, 0.01),
        ("betas", (0.9, 0.999), r"\[0\.9, 0\.98\]"),
        ("clip", 2.0, 1.0),
        ("seed", 3, 0),
        ("mixed_precision", True, False),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_they_are_named(saved, name, value, was):
    refused(saved, rf"other settings: {name} was {was}, is now .*[Tt]rain with the old ones", **{name: value})


def test_all_settings_that_differ_are_named(saved):
    refused(saved, r"lr was 0\.003, is now 0\.5, clip was 1\.0, is now 2\.0\.", lr=0.5, clip=2.0)


@pytest.mark.parametrize(
    "changes", [{"width": 32}, {"layers": 3}, {"heads": 2}, {"norm": "pre"}, {"dropout": 0.3}, {"eps": 1e-12}]
)
def test_a_checkpoint_of_another_encoder_is_refused_and_the_field_named(saved, changes):
    (name,) = changes
    refused(saved, rf"other settings: {name} was .*, is now {changes[name]}", model=new_model(**changes))


def test_a_checkpoint_of_another_kind_of_model_is_refused_and_a_parameter_named(tmp_path):
    path = tmp_path / "run.safetensors"

    def line(step):
        return points(step)

    options = {"batches": line, "steps": 3}
    train(Line(), checkpoint=path, **options)
    wide = Line()
    wide.b = nn.Parameter(torch.zeros(2))  # `a` would fit, and must stay as it is
    with torch.no_grad():
        wide.a.fill_(7.0)
    refused(path, r"another model: 1 parameters differ, first b \(there \(1,\), here \(2,\)\)", model=wide, **options)
    more = Line()
    more.c = nn.Parameter(torch.zeros(1))
    refused(path, r"another model: 1 parameters differ, first c \(there missing, here", model=more, **options)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    refused(saved, r"run\.safetensors is not a whole safetensors file .*delete it, to start anew")


def test_a_pickle_in_its_place_is_refused_and_not_read(saved):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was read",)

    torch.save({"weights": torch.zeros(3), "trap": Trap()}, saved)
    refused(saved, "is not a whole safetensors file")


def test_a_foreign_safetensors_file_is_refused(saved):
    save_file({"weight": torch.zeros(3)}, saved)
    refused(saved, r"is no checkpoint of `fit`\. Give another file name, or delete it")
    save_file({"weight": torch.zeros(3)}, saved, {"format": "pt"})
    refused(saved, "is no checkpoint of `fit`")


def test_a_folder_in_its_place_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; a checkpoint is a file.*such as run\.safetensors"):
        train(new_model(), checkpoint=tmp_path)


# --- a write that fails -----------------------------------------------------------------------------------------------


def half_then(error):
    def save(tensors, part, metadata):
        Path(part).write_bytes(b"half a file")
        raise error

    return save


def raising(error):
    def replace(source, destination):
        raise error

    return replace


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "replacement"),
    [
        (loop, "save_file", half_then(NO_SPACE)),
        (loop, "save_file", half_then(SafetensorError("I/O error: No space left on device"))),
        (loop.os, "replace", raising(NO_SPACE)),
        (loop.os, "fsync", lambda file: raising(NO_SPACE)(file, None)),
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
    assert equal(weights(model), uninterrupted[0])  # the last write failed: all steps were done, and are kept

    again = new_model()
    train(again, checkpoint=saved)
    assert equal(weights(again), uninterrupted[0])


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"could not write .*Free some space or choose another folder"):
        train(new_model(), checkpoint=tmp_path / "file" / "run.safetensors")


def test_a_history_begins_empty():
    assert History().steps == 0 and History().loss is not History().loss
