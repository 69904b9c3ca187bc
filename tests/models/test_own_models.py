"""A user's own model is what it seems, or is refused with what it does."""

import contextlib
import copy
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import own_models as own
import pytest
import torch
from commands import bilevel_run
from configs import composed, options
from hydra.utils import instantiate
from problems import seeded
from runners import runner_in
from torch import Tensor, nn

from bilevel_cli.core import autodiff
from bilevel_cli.core.dtypes import computing_in
from bilevel_cli.core.trees import Params
from bilevel_cli.errors import UsageError
from bilevel_cli.nn import attention, autocasting, blame, differentiability, purity, randomness
from bilevel_cli.nn.building import build
from bilevel_cli.nn.functional import Functional
from bilevel_cli.runs.runner import Runner

CPU = torch.device("cpu")
DIGITS = (1, 8, 8)


def built(model: Callable[..., nn.Module], seed: int = 3) -> Functional:
    examples = torch.rand(7, *DIGITS, generator=seeded(0))
    return build(model, DIGITS, 10, CPU, seeded(seed), examples)


def narrow(option: str) -> Functional:
    """One of our own models, of a width at which it takes milliseconds."""
    node = composed(f"model={option}").model
    if "width" in node:
        node.width = 4
    return build(instantiate(node), (3, 8, 8), 4, CPU)


# --- a function of parameters and input -----------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (own.FunctionalDropout, r"draws random numbers \(from torch\) and gives another output"),
        (own.LayerDropout, r"draws random numbers in Dropout 'drop' \(from torch\)"),
        (own.Noise, r"draws random numbers \(from torch\)"),
        (own.NoiseOfSeveral, r"draws random numbers \(from torch\) and gives another output"),
        (own.Leaky, r"draws random numbers in RReLU 'leaky' \(from torch\)"),
        (own.PythonsNumbers, r"draws random numbers \(from Python's random\)"),
        (own.NumpysNumbers, r"draws random numbers \(from numpy.random\)"),
        (own.GeneratorOfItsOwn, "another output when called again and keeps .* attribute generat"),
        (own.RunningMean, r"changes its buffer mean and gives .* GroupNorm"),
        (own.RunningMeanInPlace, r"changes its buffer mean and gives"),
        (own.BatchNorm, r"changes its buffer norm.running_mean, norm.running_var.*track_running"),
        (own.OldSpectralNorm, r"changes its buffer one.weight_u"),
        (own.SpectralNorm, r"changes its buffer one.parametrizations.weight.0._u"),
        (own.MeanInAnAttribute, r"keeps state in its attribute mean: .* Compute it anew"),
        (own.Counter, r"keeps state in its attribute calls"),
        (own.Log, r"keeps state in its attribute log"),
        (own.FirstBatch, r"gives another output .* keeps state in its attribute scale"),
        (own.StandardisesInPlace, r"changes its input: .* x = x - 1 instead of x -= 1"),
        (own.BeginsInPlace, r"changes its input"),
        (own.MasksAView, r"changes its input"),
        (own.BehindTorchsBack, r"changes its input"),
        (own.Clips, r"changes its parameter head.weight"),
        (own.BoundedTokens, r"changes its parameter tokens.weight: .* max_norm=None"),
        (own.Closure, r"reads parameters that it was not given"),
        (own.ComputesAgain, r"has derivatives that read param.* Leave out torch.utils.checkpoint"),
    ],
)
def test_a_model_that_is_no_function_is_refused_with_what_it_does(
    model: type[nn.Module], seen: str
) -> None:
    with pytest.raises(ValueError, match=f"got {model.__name__}, which .*{seen}"):
        built(model)


@pytest.mark.parametrize(
    "model",
    [
        *(own.Base, own.Cache, own.EvalDropout, own.EvalBatchNorm, own.BatchOfNow),
        *(own.EvalSpectralNorm, own.WeightNorm, own.LaterInPlace, own.Tied, own.FrozenRandom),
        own.ForeignForward,
    ],
)
def test_a_model_that_is_one_is_accepted_whatever_its_layers_are(model: type[nn.Module]) -> None:
    assert built(model).not_twice == ""


def test_looking_at_a_model_touches_nothing_of_the_run() -> None:
    examples, generator = torch.rand(7, *DIGITS), seeded(3)
    kept, state, drawn = examples.clone(), generator.get_state(), randomness.states()
    for model in (own.StandardisesInPlace, own.NumpysNumbers, own.RunningMeanInPlace, own.Base):
        with contextlib.suppress(ValueError):
            build(model, DIGITS, 10, CPU, generator, examples)
    assert torch.equal(examples, kept)
    assert examples._version == 0
    assert torch.equal(generator.get_state(), state)
    for name, value in randomness.states().items():
        assert purity._same(value, drawn[name]), name


def test_the_buffers_of_an_accepted_model_are_those_of_its_constructor() -> None:
    norm = built(own.EvalBatchNorm).module.get_buffer("norm.running_mean")
    assert torch.equal(norm, torch.zeros(16))


@pytest.mark.parametrize("option", options("model"))
def test_our_own_models_are_functions_which_a_run_takes_for_granted(option: str) -> None:
    model = narrow(option)
    inputs = torch.rand(2, 3, 8, 8), torch.rand(3, 3, 8, 8)
    purity.check(model, copy.deepcopy(model.module), inputs)
    assert differentiability.not_twice(model, inputs[0]) == ""


# --- starts ---------------------------------------------------------------------------------------


def test_weights_that_the_constructor_loads_are_the_start() -> None:
    start = built(own.Pretrained).init(seeded(1))
    assert torch.equal(start["body.bias"], torch.full((8,), 7.0))
    assert torch.equal(start["body.weight"], torch.full((8, 64), 0.125))


def test_a_scheme_that_the_constructor_applies_is_that_of_every_start() -> None:
    model = built(own.CustomInit)
    one, other, again = (model.init(seeded(seed)) for seed in (1, 2, 1))
    assert not one["one.bias"].any()
    # 1024 normal numbers: the relative error of their deviation is 1 / sqrt(2048).
    assert one["one.weight"].std().item() == pytest.approx(0.02, rel=5 / 2048**0.5)
    assert not torch.equal(one["one.weight"], other["one.weight"])
    torch.testing.assert_close(one, again, rtol=0, atol=0)


def test_a_constructor_may_draw_from_numpy_and_python() -> None:
    model, before = built(own.NumpysScheme), randomness.states()
    one, again, other = (model.init(seeded(seed))["one.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert purity._same(before, randomness.states())


@pytest.mark.parametrize("option", options("model"))
def test_our_own_models_start_where_they_did_when_their_layers_were_drawn_anew(option: str) -> None:
    model = narrow(option)
    module = copy.deepcopy(model.module).float()  # as runs have it by default
    seed = int(torch.randint(2**62, (1,), generator=seeded(5)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for part in module.modules():
            reset: Any = getattr(part, "reset_parameters", lambda: None)
            reset()
    expected = {name: value.detach().double() for name, value in module.named_parameters()}
    torch.testing.assert_close(model.init(seeded(5)), expected, rtol=0, atol=0)


def test_frozen_parameters_are_constants() -> None:
    model = built(own.Frozen)
    names = ["head.weight", "head.bias"]
    assert [name for name, _ in model.named_parameters()] == names
    start = model.init(seeded(1))
    assert list(start) == names
    whole = model.state_dict(start)
    assert list(whole) == ["body.weight", "body.bias", *names]
    assert whole["body.weight"].dtype == torch.get_default_dtype()
    reference = own.Frozen(10)
    reference.load_state_dict(whole)
    x = torch.rand(4, *DIGITS)
    assert torch.equal(model.apply(start, x), reference(x))
    held = {id(model.module.get_parameter("body.weight"))}
    assert {id(spare.get_parameter("body.weight")) for spare in model._spare} == held


def test_random_constants_are_those_of_the_first_start_and_of_the_seed() -> None:
    model, again, other = (
        built(own.FrozenRandom),
        built(own.FrozenRandom),
        built(own.FrozenRandom, seed=4),
    )
    # The generator that `build` saw draws the first start: its module is the constructor's whole.
    first = model.init(seeded(3))
    with randomness.apart(model.seed), computing_in(torch.float32):
        whole = own.FrozenRandom(10).double()
    torch.testing.assert_close(model.state_dict(first), dict(whole.state_dict()), rtol=0, atol=0)
    assert torch.equal(again.module.get_buffer("mixed"), whole.mixed)
    assert not torch.equal(other.module.get_buffer("mixed"), whole.mixed)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (own.AllFrozen, "a parameter to train, got AllFrozen, all of whose parameters are frozen"),
        (own.NoParameters, "a parameter to train, got NoParameters, without parameters"),
        (own.Lazy, "parameters that its constructor draws, got Lazy with lazy layers"),
        (own.Unseeded, "that a seed decides, got Unseeded, .* other values of one.weight"),
    ],
)
def test_a_model_without_a_start_is_refused(model: type[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(model)


def test_tied_weights_are_one_parameter() -> None:
    model = built(own.Tied)
    params, x = model.init(seeded(1)), torch.rand(4, *DIGITS)
    assert list(params) == ["enc.weight", "mid.weight", "head.weight", "head.bias"]

    def untied(params: Params) -> Tensor:
        hidden = (x.flatten(1) @ params["enc.weight"].T).tanh()
        for _ in range(2):
            hidden = (hidden @ params["mid.weight"].T).tanh()
        return hidden @ params["head.weight"].T + params["head.bias"]

    found, expected = (
        autodiff.grad(lambda p, fn=fn: fn(p).square().sum())(params)
        for fn in (lambda p: model.apply(p, x), untied)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    own.Tied(10).load_state_dict(model.state_dict(params))  # which is strict


# --- outputs and errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", [own.Logits, own.DictOfLogits])
def test_logits_of_an_object_or_a_dict_are_the_output(model: type[nn.Module]) -> None:
    found, plain, x = built(model), built(own.Base), torch.rand(4, *DIGITS)
    params = plain.init(seeded(1))
    assert torch.equal(found.apply(params, x), plain.apply(params, x))


HERE = rf"{re.escape(own.__file__)}, line \d+, in "


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (own.Tuple, r"got a tuple from Tuple. Return a tensor, or an object or a dict with a "),
        (own.LogitsOfNothing, "got a dict without a tensor as `logits` from LogitsOfNothing"),
        (own.FailsAtOnce, rf"constructor failed: KeyError without a message \({HERE}extra\)"),
        (own.FailsLater, rf"fails on them: ValueError: wrong thing \({HERE}between\)"),
        (own.TwoInputs, "TypeError: .*'mask'.* cut several inputs out of it"),
        (own.Detached, "depends on its parameters, got Detached, whose output is cut off"),
        (own.OverwritesWhatItNeeds, "needs derivatives .* modified by an inplace operation"),
        (own.Base(10), "needs a constructor, .* got a Base that is made already"),
    ],
)
def test_a_model_that_fails_is_refused_with_the_cause(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        built(model)
    assert "\n" not in str(caught.value)


ON_GPU = [
    (own.PlainTensor, r"Its attribute scale is no buffer, and stays .*: use register_buffer"),
    (own.PlainTensorsWithin, r"Its attribute block.settings is no buffer"),
    (own.MadeInForward, r"mixes devices \(.*Make tensors in its forward where the input is"),
    (own.Masked, r"Make tensors in its forward where the input is, .*device=x.device"),
    (own.MeanByNumpy, r"can't convert cuda:0 .*use torch's functions instead, or device=cpu"),
    (own.ReturnsToHost, r"on cuda:0, where its input is, got a tensor on cpu .* Leave out .cpu"),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("model", "message"), ON_GPU)
def test_a_model_with_tensors_on_the_cpu_is_told_which_they_are_and_what_to_do(
    model: type[nn.Module], message: str
) -> None:
    assert built(model).not_twice == ""
    with pytest.raises(ValueError, match=message) as caught:
        build(model, DIGITS, 10, torch.device("cuda"))
    assert len(str(caught.value)) <= 400


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", [own.SingleNumber, own.WhereItsInputIs])
def test_a_model_whose_tensors_meet_is_on_a_gpu_what_it_is_on_a_cpu(model: type[nn.Module]) -> None:
    x = torch.rand(5, *DIGITS)
    found, expected = (build(model, DIGITS, 10, torch.device(one)) for one in ("cuda", "cpu"))
    params = expected.init(seeded(1))
    there = {name: value.cuda() for name, value in params.items()}
    torch.testing.assert_close(found.apply(there, x.cuda()).cpu(), expected.apply(params, x))


def test_whole_numbers_are_named_where_a_model_cannot_take_them() -> None:
    examples = torch.zeros(4, *DIGITS, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"shape \[1, 8, 8\] of whole numbers, got Base, which"):
        build(own.Base, DIGITS, 10, CPU, seeded(0), examples)


def test_an_error_is_told_in_one_line_wherever_it_is_from() -> None:
    def raised(act: Callable[[], object]) -> str:
        try:
            act()
        except Exception as error:
            return blame.explained(error)
        raise AssertionError

    here = re.escape(__file__)
    assert re.fullmatch(
        rf"ZeroDivisionError: .* \({here}, line \d+, in .*\)", raised(lambda: 1 / 0)
    )
    assert raised(lambda: build(own.Lazy, DIGITS, 3, CPU)).startswith("A model needs parameters")
    assert re.search(
        rf"JSONDecodeError: .*\({here}, line", raised(lambda: __import__("json").loads("{"))
    )


# --- second derivatives ---------------------------------------------------------------------------


def test_a_method_that_takes_products_refuses_a_model_without_them() -> None:
    reason = built(own.OnceDifferentiable).not_twice
    assert "once_differentiable" in reason
    assert run_of("OnceDifferentiable", "method=f2sa").not_twice
    for method in ("reverse", "cg", "forward"):
        with pytest.raises(UsageError, match=r"needs second .*once_differentiable"):
            run_of("OnceDifferentiable", f"method={method}")


def test_the_models_of_a_task_are_found_in_its_lists_and_dicts_too() -> None:
    elsewhere = "task._target_=own_tasks.ModelInADict"
    with pytest.raises(UsageError, match=r"needs second .*once_differentiable"):
        runner_of("OnceDifferentiable", "method=reverse", elsewhere)
    with autocasting.restored():
        runner_of("Base", "method=f2sa", elsewhere, "device.precision=bf16-mixed")


@pytest.mark.parametrize(
    ("model", "warning"),
    [
        (
            own.DetachedBackward,
            "second derivative of DetachedBackward is not the derivative of its",
        ),
        (own.StopsGradients, "second derivative of StopsGradients is not the derivative of its"),
        (own.ThroughNumpy, "No derivative reaches one.bias, one.weight of ThroughNumpy, though"),
    ],
)
def test_a_derivative_that_misses_something_is_warned_of(
    model: type[nn.Module], warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    built(model)
    assert warning in caplog.text


@pytest.mark.parametrize("model", [own.Base, own.Kinks, own.Unused, own.Transformer])
def test_a_derivative_that_misses_nothing_is_not(
    model: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    built(model)
    assert not caplog.text


def run_of(name: str, *overrides: str) -> Functional:
    model: Functional = vars(runner_of(name, *overrides).experiment.task)["model"]
    return model


def runner_of(name: str, *overrides: str) -> Runner:
    small = ("task=hpo", "data.train=12", "data.validation=12", "inner_steps=2", "device=cpu")
    config = composed(*small, *overrides)
    config.model = {"_target_": f"own_models.{name}", "_partial_": True}
    return runner_in(config, Path("nowhere"))


ATTENTIVE = (own.Transformer, own.EvalTransformer, own.Multihead, own.ScaledProduct)


@pytest.mark.parametrize("model", ATTENTIVE)
def test_attention_has_a_second_derivative(model: type[nn.Module]) -> None:
    found = built(model)
    assert found.attends
    assert found.not_twice == ""
    assert not built(own.Base).attends


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((m, "Transformer") for m in ("reverse", "cg", "forward", "fg2u", "iaptt", "darts")),
        *((m, "EvalTransformer") for m in ("cg", "forward")),
    ],
)
def test_hypergradients_through_attention_are_those_of_its_formula(method: str, name: str) -> None:
    more = [f"method={method}", "device.dtype=float32", "task/penalty/granularity=per_layer"]
    found, expected = (hypergradient(runner_of(one, *more)) for one in (name, "ByHand"))
    assert any(value.any() for value in expected.values())
    scale = max(float(value.abs().max()) for value in expected.values())
    for key, value in expected.items():
        # Both are of rounding alone; darts divides differences by a small step.
        bound = 1e-6 * max(1.0, scale) if method != "darts" else 1e-2 * scale
        torch.testing.assert_close(found[key], value, rtol=0, atol=bound)


def hypergradient(runner: Any) -> Params:
    steps = runner._advance()
    grad: Params = runner.estimate(*next(steps)).grad
    return grad


def test_threads_that_attend_leave_torchs_kernels_as_they_were() -> None:
    kernels = [enabled for enabled, _ in attention._KERNELS]
    before = [enabled() for enabled in kernels]
    model = built(own.Transformer)
    x, expected = torch.rand(4, *DIGITS), built(own.ByHand)
    params = [model.init(seeded(seed)) for seed in range(8)]

    def twice(model: Functional) -> Callable[[Params], Params]:
        def slope(params: Params) -> Tensor:
            inner = autodiff.grad(lambda p: model.apply(p, x).square().sum())(params)
            return torch.stack([value.square().sum() for value in inner.values()]).sum()

        def run(params: Params) -> Params:
            with torch.no_grad():
                found: Params = autodiff.grad(slope)(params)
                return found

        return run

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(twice(model), params))
    torch.testing.assert_close(found, [twice(expected)(p) for p in params], rtol=1e-8, atol=1e-10)
    assert [enabled() for enabled in kernels] == before


def test_compiled_attention_is_that_of_its_formula() -> None:
    model, x = built(own.Transformer), torch.rand(4, *DIGITS)
    params = model.init(seeded(1))
    expected = built(own.ByHand).apply(params, x)
    model.apply(params, x)  # makes the module, as `build` does
    compiled = torch.compile(model.apply, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(params, x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_have_second_derivatives(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self, num_outputs: int) -> None:
            super().__init__()
            self.layer = kind(8, 4, batch_first=True)
            self.head = nn.Linear(4, num_outputs)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x[:, 0])[0][:, -1])

    model, x = built(Recurrent), torch.rand(3, *DIGITS)
    params = model.init(seeded(0))
    slope = autodiff.grad(lambda p: model.apply(p, x).square().sum())
    along = {name: torch.randn(v.shape, generator=seeded(1)) for name, v in params.items()}

    def at(step: float) -> Params:
        found: Params = slope({name: v + step * along[name] for name, v in params.items()})
        return found

    product = autodiff.grad(
        lambda p: torch.stack([(g * along[n]).sum() for n, g in slope(p).items()]).sum()
    )(params)
    # A central difference of step h is off by h^2, and by rounding over h.
    plus, minus = at(1e-5), at(-1e-5)
    difference = {name: (plus[name] - minus[name]) / 2e-5 for name in params}
    torch.testing.assert_close(product, difference, rtol=1e-6, atol=1e-7)


# --- runs -----------------------------------------------------------------------------------------


def write(folder: Path, name: str) -> list[str]:
    """A yaml of this model, and the arguments with which bilevel-run finds it."""
    path = folder / "conf" / "model" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# mine\n_target_: own_models.{name}\n_partial_: true\n")
    more = ["device=cpu", f"hydra.run.dir={folder / 'run'}"]
    return ["--config-dir", str(folder / "conf"), "model=mine", *more]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FunctionalDropout", "draws random numbers"),
        ("StandardisesInPlace", "changes its input"),
        ("Tuple", "got a tuple from Tuple"),
        ("FailsAtOnce", "KeyError without a message"),
        ("Absent", "got own_models.Absent: ModuleNotFoundError: No module named"),
    ],
)
def test_a_run_with_such_a_model_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    arguments = [*write(tmp_path, name), "task=hpo", "data.train=12", "data.validation=12"]
    assert bilevel_run(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert said.out + said.err == said.err
    assert said.err.count("\n") == 1
    assert message in said.err
    assert not (tmp_path / "run" / "train.csv").exists()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "own_models.Base"}, r"model needs _partial_: true in its yaml, .*Base"),
        (
            {"_target_": "broken.Model"},
            r"ModuleNotFoundError: .*'absent' \(.*broken.py, line 2, in",
        ),
        ({"_target_": "wrong.Model"}, r"SyntaxError: .*wrong.py, line 2\)"),
        ({"_target_": "failing.Model", "_partial_": True}, r"RuntimeError: no file \(.*, line 4"),
    ],
)
def test_a_class_that_cannot_be_built_is_named_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: dict[str, Any], message: str
) -> None:
    (tmp_path / "broken.py").write_text("\nimport absent\n")
    (tmp_path / "wrong.py").write_text("\nx = = 3\n")
    (tmp_path / "failing.py").write_text(
        "class Model:\n\n    def __init__(self):\n        raise RuntimeError('\\nno file')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = composed("task=hpo", "data.train=12", "data.validation=12", "device=cpu")
    config.model = node
    with pytest.raises(UsageError, match=message):
        runner_in(config, tmp_path)


def test_whole_numbers_of_an_npz_file_reach_a_model_as_tokens(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 5, (40, 6)).astype(np.int16)
    np.savez(tmp_path / "my.npz", x=x, y=np.arange(40) % 2)
    node = composed("data=npz", f"data.path={tmp_path / 'my.npz'}").data
    parts = instantiate(node).splits(seeded(0))
    for part in parts:
        assert part.x.dtype == part.to(CPU).x.dtype == torch.int64
        assert np.array_equal(part.x.numpy(), x[part.index.numpy()])
    node.standardize = True
    with pytest.raises(ValueError, match="standardises floating inputs or bytes, got whole num"):
        instantiate(node).splits(seeded(0))
    config = composed("task=distill", "data=npz", f"data.path={tmp_path / 'my.npz'}", "device=cpu")
    with pytest.raises(UsageError, match="Distillation learns inputs, got whole numbers"):
        runner_in(config, tmp_path)


def test_a_model_that_fails_later_is_told_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*write(tmp_path, "FailsOnMany"), "task=hpo", "data.train=12", "data.validation=12"]
    assert bilevel_run(monkeypatch, *arguments) == 1
    said = capsys.readouterr().err
    assert re.search(rf"AssertionError: no message \({HERE}between\) The traceback is in", said)


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_few_shot_learning_leaves_frozen_layers_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapt: str
) -> None:
    small = ["task=meta", "inner_steps=1", "outer_steps=3", "task.episodes=1", "optimizer.lr=0.1"]
    small += ["task.eval_episodes=2", "eval_every=3", f"task.adapt={adapt}", "method=reverse"]
    assert bilevel_run(monkeypatch, *write(tmp_path, "Frozen"), *small) == 0
    found = torch.load(tmp_path / "run" / "initialisation.pt", weights_only=True)
    assert torch.equal(found["body.bias"], torch.full((8,), 7.0, dtype=torch.float32))
    assert torch.equal(found["body.weight"], torch.full((8, 64), 0.125, dtype=torch.float32))
    own.Frozen(5).load_state_dict(found)


DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "model.md"


def documented() -> list[tuple[str, str, str]]:
    """Of each example: its class, its yaml and its command."""
    pattern = r"```python\n(.*?)```\n\n```yaml\n(.*?)```\n\n```bash\nbilevel-run ([^\n]*)\n"
    examples = DOCS.read_text().partition("## A pretrained body")[2]
    return re.findall(pattern, examples, re.DOTALL)


@pytest.mark.parametrize(
    ("number", "more"),
    [
        (0, ["method=reverse", "task.eval_episodes=2"]),
        (0, ["method=iaptt", "task.eval_episodes=2", "model.frozen=false"]),
        *((number, [f"method={method}"]) for number in (1, 2) for method in ("cg", "reverse")),
    ],
)
def test_the_documented_models_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, more: list[str]
) -> None:
    python, yaml, command = documented()[number]
    for text in (python, yaml):
        path = tmp_path / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    examples = np.random.default_rng(0)
    y = np.arange(60) % 2
    tokens = examples.integers(1, 49, (60, 6)) * (np.arange(6) < examples.integers(1, 7, (60, 1)))
    np.savez(tmp_path / "texts.npz", x=tokens, y=y)
    np.savez(tmp_path / "series.npz", x=examples.normal(size=(60, 5, 3)), y=y)
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Tanh()).float()
    torch.save(body.state_dict(), tmp_path / "body.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = [*command.split(), *more, "device=cpu", "hydra.run.dir=run"]
    assert bilevel_run(monkeypatch, *arguments) == 0
    if (tmp_path / "run" / "initialisation.pt").exists():
        found = torch.load(tmp_path / "run" / "initialisation.pt", weights_only=True)
        for name, value in body.state_dict().items():
            constant = "frozen=false" not in str(more) or "running" in name
            assert torch.equal(found[f"body.{name}"], value) or not constant
