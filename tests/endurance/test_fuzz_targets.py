"""Command lines with nested targets: whatever they name, nothing is called but classes of ours."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import complaint, every_line, home
from hydra._internal.instantiate import _instantiate2
from hypothesis import strategies as st

from bilevel_cli.config.targets import on_a_shelf
from bilevel_cli.runs import origin

__all__ = ["home"]  # a fixture

# A signal may come while hypothesis listens to the garbage collector.
pytestmark = [
    pytest.mark.hostile,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
# What Python tells of programs that are started, of pickles and of connections.
WATCHED = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen"),
    *("pickle.find_class", "socket.connect", "urllib.Request", "webbrowser.open"),
}

foreign = st.sampled_from(
    [
        *("os.system", "posix.system", "subprocess.run", "subprocess.Popen", "builtins.eval"),
        *("torch.load", "torch.hub.load", "torch.save", "torch.optim.optimizer.torch.load"),
        *(
            "torch.optim.adam.torch.hub.load",
            "torch.optim.lr_scheduler.torch.save",
            "builtins.open",
        ),
        *("torch.optim.swa_utils.update_bn", "torch.optim.Optimizer.zero_grad", "torch.optim..SGD"),
        *("bilevel_cli.commands.run.os.system", "bilevel_cli.runs.origin.subprocess.run"),
        *("bilevel_cli.commands.init.main", "bilevel_cli.run", "bilevel_cli.config.objects.make"),
        *("bilevel_cli.runs.lifetime.Run", "bilevel_cli.sweeps.job.Job", "hydra.utils.instantiate"),
        *("logging.FileHandler", "pathlib.Path.touch", "functools.partial", "builtins.open"),
        *("hydra._internal.core_plugins.basic_launcher.BasicLauncher", "importlib.import_module"),
        *("${zzz}", "${oc.env:HOME}", "os . system", "OS.SYSTEM", "os/system", "'os.system'", "??"),
    ]
)
ours = st.sampled_from(
    [
        *("torch.optim.SGD", "torch.optim.Adam", "torch.optim.lr_scheduler.StepLR"),
        *("bilevel_cli.models.Mlp", "bilevel_cli.solvers.gd.GradientDescent"),
        *("bilevel_cli.tasks.examples.quadratic.Quadratic", "bilevel_cli.methods.es.Es"),
        *("bilevel_cli.core.schedules.Ramp", "bilevel_cli.linear_solvers.cg.ConjugateGradient"),
    ]
)
names = st.one_of(foreign, foreign, ours)
words = st.sampled_from(["touch evil", "'touch evil'", "[touch, evil]", "evil", "{a: 1}", "0.1"])
links = st.sampled_from(
    [
        "${zzz}",
        "${zzz.a}",
        "${.a}",
        "${task}",
        "${hydra:launcher}",
        "${hydra:job}",
        "${oc.env:HOME}",
    ]
)
arguments = st.sampled_from(["command", "args", "f", "path", "lr", "x", "_args_", "class", "()"])
special = st.sampled_from(
    ["_target_", "_target_", "_target_", "_target_", "class", "()", "_partial_"]
)


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Nodes with a target, lists and dicts, with others within them."""
    entries = st.dictionaries(arguments, st.one_of(inner, words, links), max_size=2)

    def node(key: str, name: str, more: dict[str, str]) -> str:
        pairs = [f"{key}: {name}", *(f"{k}: {v}" for k, v in more.items())]
        return f"{{{', '.join(pairs)}}}"

    return st.one_of(
        st.builds(node, special, names, entries),
        st.builds(node, special, names, entries),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.builds("{{a: {}}}".format, inner),
        st.builds("choice({}, {})".format, inner, words),
    )


nodes = nested(st.recursive(words, nested, max_leaves=4))
texts = st.one_of(nodes.map("'{}'".format), nodes.map('"{}"'.format))
values = st.one_of(nodes, nodes, nodes, names, links, words, texts, st.just("null"))
plain = st.sampled_from(
    [
        *("task", "task.x", "task.inner_dim", "optimizer", "optimizer.lr", "optimizer.params"),
        *("method", "method.linear_solver", "solver", "solver.lr", "start", "scheduler", "device"),
        *("model", "data", "metrics", "metrics.x", "loggers", "loggers.x", "suggest.inner_lr"),
        *("zzz", "zzz.a", "seed", "outer_steps"),
    ]
)
hydras = st.sampled_from(
    [
        *("hydra", "hydra.callbacks", "hydra.callbacks.x", "hydra.job", "hydra.job.env_set"),
        *("hydra.job.env_set.PATH", "hydra.job_logging", "hydra.job_logging.handlers.x"),
        *("hydra.hydra_logging.formatters.x", "hydra.launcher", "hydra.launcher.setup"),
        *("hydra.sweeper", "hydra.sweeper.params", "hydra.sweeper.params.optimizer", "hydra.x"),
        *("hydra.searchpath", "hydra.runtime.cwd", "hydra.help.template", "hydra.run.x"),
    ]
)
keys = st.one_of(plain, plain, hydras, st.builds("{}._target_".format, plain))
groups = st.sampled_from(["task", "optimizer", "method", "hydra/launcher", "hydra/callbacks", "x"])
packages = st.one_of(keys, st.builds("_global_.{}".format, keys))
prefixes = st.sampled_from(["", "", "+", "+", "+", "++", "~"])


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A small run, with one to three arguments that try to call something."""
    assigned = st.builds("{}{}={}".format, prefixes, keys, values)
    moved = st.builds("{}{}@{}={}".format, prefixes, groups, packages, st.one_of(names, values))
    linked = st.builds("+{}={}".format, keys, links)
    chosen = st.builds("{}{}={}".format, prefixes, groups, names)
    flags = st.sampled_from(["--experimental-rerun=evil.pkl", "--cfg=job", "--info=config"])
    wild = st.one_of(assigned, assigned, assigned, moved, linked, chosen, flags)
    found = draw(st.lists(wild, min_size=1, max_size=3))
    return ["task=quadratic", "budget=40", "outer_steps=2", "device=cpu", *found]


class Watch:
    """What was called and started while command lines ran.

    Attributes:
        on: Whether it looks.
        seen: What nobody asked for.
    """

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()

    def heard(self, event: str, details: tuple[Any, ...]) -> None:
        """Hook of `sys.addaudithook`, which Python keeps for good."""
        if self.on and event in WATCHED:
            self.seen.append(f"{event} {details!r}"[:200])

    def called(self, target: Any) -> None:
        """Notes a target that Hydra is about to call."""
        name = f"{target.__module__}.{getattr(target, '__qualname__', '?')}"
        if not (on_a_shelf(name) or re.match(r"hydra\._internal\.core_plugins\.basic_", name)):
            self.seen.append(name)


WATCH = Watch()
sys.addaudithook(WATCH.heard)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Watch]:
    theirs = _instantiate2._call_target

    def call(target: Any, *arguments: Any, **named: Any) -> Any:
        WATCH.called(target)
        return theirs(target, *arguments, **named)

    monkeypatch.setattr(_instantiate2, "_call_target", call)
    origin.process()  # asks git and the system, once
    WATCH.seen.clear()
    yield WATCH
    WATCH.on = False
    assert not (home / "evil").exists()


def check_lines(count: int, home: Path, watch: Watch, number: int = 0) -> None:
    def check(arguments: list[str]) -> None:
        watch.on = True
        wrong = complaint(arguments, home)
        watch.on = False
        assert wrong is None, arguments
        assert watch.seen == [], arguments
        assert not list(home.rglob("evil")), arguments

    every_line(lines(), check, count, number)


def test_no_target_of_others_is_called(home: Path, watch: Watch) -> None:
    check_lines(25, home, watch)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(1, 9))
def test_of_two_thousand_lines_none_calls_a_target_of_others(
    number: int, home: Path, watch: Watch
) -> None:
    check_lines(250, home, watch, number)


def test_the_watch_sees_a_program_and_a_target_of_others(home: Path, watch: Watch) -> None:
    watch.on = True
    sys.audit("os.system", b"true")
    _instantiate2.instantiate({"_target_": "builtins.dict", "a": 1})
    watch.on = False
    assert watch.seen == ["os.system (b'true',)", "builtins.dict"]
    watch.seen.clear()
    assert complaint(["task=quadratic", "outer_steps=2"], home) is None
    assert watch.seen == []
