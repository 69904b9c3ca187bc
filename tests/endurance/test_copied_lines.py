"""Command lines and manifests made to do harm: they build and run nothing but what is ours."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from data_files import Trap
from omegaconf import OmegaConf

import bilevel_cli
from bilevel_cli.commands import check, distilled
from bilevel_cli.commands import run as cli
from bilevel_cli.config.arguments import check_arguments
from bilevel_cli.config.objects import make
from bilevel_cli.config.options import CONF
from bilevel_cli.config.own_code import workers_elsewhere
from bilevel_cli.config.refused import check_command_line, check_composed
from bilevel_cli.config.run_folder import check_names
from bilevel_cli.config.targets import check_targets, on_a_shelf
from bilevel_cli.errors import UsageError
from bilevel_cli.report.read import bounded
from bilevel_cli.sweeps.search import NAME

PACKAGE = Path(bilevel_cli.__file__).parent
pytestmark = [pytest.mark.hostile, pytest.mark.usefixtures("data_cache")]

# ---- what a command is told to build


HOSTILE = [
    "task._target_=os.system",
    "+task.x={_target_: os.system, command: 'touch evil'}",
    "+task.x=[{_target_: os.system}]",
    "task._target_=bilevel_cli.commands.run.os.system",
    "task._target_=torch.optim.adam.torch.hub.load",
    "task._target_=torch.hub.load",
    "task._target_=${suggest.name}",
    "task=${oc.decode:'{_tar'}",
    "+hydra.callbacks.mine=${oc.decode:${oc.env:EVIL}}",
    "task=${oc.${suggest.name}:text}",
    "task=${ oc.${${suggest.name}}:text}",
    "optimizer._target_='os.system'",
    "+optimizer._args_=[1]",
    "task._partial_=true",
    "--experimental-rerun=config.pickle",
    "--exp",
    *("--config-path=pkg://this", "-cp=pkg://this"),  # which Hydra would import
    *("+x=${oc.env:SECRET_TOKEN}", "hydra.run.dir='${oc.env:HOME}/x'", "seed=${ oc.env:HOME,1}"),
    "+hydra.callbacks.mine={_target_: os.system, command: 'touch evil'}",
]


LOAD = "{_target_: torch.optim.optimizer.torch.load, f: evil.pt, weights_only: false}"
FOREIGN = [  # names that lead away from where they begin, wherever they are put
    f"+hydra.callbacks.x={LOAD}",
    f"+task.x=[{LOAD}]",
    f"+task.x={{a: [1, {LOAD}]}}",
    f"+optimizer=[{LOAD}]",
    f"optimizer={LOAD}",
    f"+x={{a: choice(1, {LOAD})}}",
    "optimizer._target_=torch.optim.SGD,torch.optim.optimizer.torch.load",
    "optimizer._target_=torch.optim.swa_utils.update_bn",
    "optimizer._target_=torch.optim.Optimizer.zero_grad",
    "optimizer._target_=torch.optim..SGD",
    "task._target_=bilevel_cli.commands.init.main",
    "task._target_=bilevel_cli.runs.lifetime.Run",
    "+task.x={_target_: {a: bilevel_cli.models.Mlp}}",
    "+hydra.sweeper.params.optimizer._target_='choice(torch.optim.SGD,os.system)'",
]
RUNS = [  # what Hydra calls or hands to other programs, in every spelling
    *("+hydra.callbacks.x=1", "++hydra.callbacks.x.y=1", "~hydra.callbacks", "hydra.callbacks={}"),
    *("+hydra={callbacks: {x: {a: 1}}}", "+hydra=${zzz}", "hydra.job=${zzz}", "hydra/callbacks=x"),
    *("hydra.job={env_set: {A: b}}", "+hydra.job.env_set.GIT_CONFIG_COUNT='1'"),
    *("hydra.job.env_copy=[HOME]", "hydra.job_logging.root.level=INFO", "~hydra.job_logging"),
    *("+hydra.job_logging.handlers.x={class: subprocess.Popen}", "hydra.hydra_logging=null"),
    *("hydra/job_logging=mine", "hydra/hydra_logging=mine"),
    *("task@hydra.callbacks.x=quadratic", "+optimizer@_global_.hydra.callbacks.x=sgd"),
    *("task@hydra.launcher=quadratic", "hydra.searchpath=[file:///tmp]", "hydra.runtime.cwd=x"),
    *("hydra.launcher.setup=[touch evil]", "+hydra.launcher.srun_args=[x]", "hydra.launcher=${x}"),
    *("hydra.launcher={setup: [x]}", "hydra.launcher.comment='a b'", "hydra.launcher.python=x"),
    *("hydra.launcher.ray.init.address='ray://there:1'", "hydra.launcher.pre_dispatch='x()'"),
    *("+hydra.launcher.ray.init.runtime_env={pip: [x]}", "hydra.sweeper.params=${x}"),
    *(
        "hydra.sweeper.custom_search_space=os.system",
        "hydra.sweeper.params={+hydra.callbacks.x: a}",
    ),
    *("+hydra.sweeper.params.hydra.callbacks.x='{a: 1}'", "+hydra.sweeper.params.x='${a}${b}'"),
    *("hydra.job.name=../x", "hydra.output_subdir=/x", "hydra.sweep.dir='a\nb'"),
    *("task=../../x", "task=/x", "+experiment=/x", "task/noise=../x", "metrics=[norms,/x]"),
    *("task=${oc.env:HOME}", "task=quadratic,../x"),
]
FINE = [
    *("hydra/job_logging=disabled", "hydra/hydra_logging=none", "hydra.verbose=[a.b]"),
    *("hydra/launcher=joblib", "hydra.launcher.n_jobs=4", "hydra.launcher.partition=gpu"),
    *("hydra.launcher.ray.init.address=auto", "+hydra.launcher.ray.init.num_cpus=2"),
    *("hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "hydra.sweeper.n_trials=3"),
    *("+hydra.sweeper.params.solver.lr='tag(log, interval(0.01, 1))'", "hydra.mode=MULTIRUN"),
    "+hydra.sweeper.params.optimizer._target_='choice(torch.optim.SGD,torch.optim.Adam)'",
    *(
        "hydra.run.dir='/tmp/a b'",
        "hydra.sweep.subdir=${hydra.job.num}",
        "hydra.output_subdir=null",
    ),
    *("data.path=/tmp/my_args_.csv", "data.path=../x.csv", "+root=/data", "data.path=${root}/x"),
    *("solver@solver.base=gd", "~metrics", "~optimizer._target_", "seed=1,2", "method=glob(*)"),
]


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a pickle that runs when it is loaded; nothing has run there at the end."""
    monkeypatch.chdir(tmp_path)
    torch.save(Trap(tmp_path / "evil"), "evil.pt")
    yield
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("argument", [*HOSTILE, *FOREIGN, *RUNS])
def test_a_command_line_builds_nothing_that_no_file_names(
    argument: str, evil: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    del evil
    monkeypatch.setattr(sys, "argv", ["bilevel-run", "task=quadratic", argument])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("bilevel-run: ")
    assert error.count("\n") == 1
    assert len(error) <= 400


@pytest.mark.parametrize("argument", ["+hydra.callbacks.x=1", f"task={LOAD}", f"+task.x=[{LOAD}]"])
def test_every_door_has_the_same_lock(
    argument: str, evil: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    del evil
    for call in (bilevel_cli.run, bilevel_cli.check):
        with pytest.raises(UsageError, match=r"A command line cannot|classes of bilevel_cli"):
            call(argument)
    monkeypatch.setattr(sys, "argv", ["bilevel-check", argument])
    with pytest.raises(SystemExit):
        check.main()
    assert "A command line can" in capsys.readouterr().err


LEADING = [  # none of these arguments says by itself where it leads
    ["+x=../../mine", "hydra.job.name=${x}"],
    ["+x=/mine", "hydra.output_subdir=${x}"],
    ["hydra.output_subdir=${hydra.job.name}/${inner_steps}/..${slug:}/../../mine"],
    ["+x='a\ntouch evil\n'", "hydra.job.name=${x}"],
    ["+x='a\ntouch evil\n'", "hydra.run.dir=${x}"],
]
LEADING_JOBS = [
    ["+x='a\ntouch evil\n'", "hydra.sweep.dir=${x}"],
    ["+x='a\ntouch evil\n'", "hydra.job.name=${x}"],  # a line of submitit's batch script
    ["hydra.sweep.subdir=../mine${hydra.job.num}"],
    ["hydra.sweep.subdir=/mine"],
]


@pytest.mark.parametrize(
    "arguments", [*LEADING, *(["-m", "seed=0,1", *each] for each in LEADING_JOBS)]
)
def test_names_that_are_put_together_stay_in_the_folder_and_in_their_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    places = [f"hydra.run.dir={tmp_path / 'run' / 'a'}", f"hydra.sweep.dir={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", ["bilevel-run", "task=quadratic", *places, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert re.match(r"bilevel-run: A command line cannot (lead|put a line break)", error), error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.rglob("*")} <= {"run", "multirun.yaml"}


def test_a_folder_of_ones_own_may_name_the_log_where_it_likes(tmp_path: Path) -> None:
    own = {"path": str(CONF), "schema": "file", "provider": "main"}
    names = {"job": {"name": "../mine"}, "output_subdir": None, "run": {"dir": "a"}}
    config = OmegaConf.create({"hydra": names | {"runtime": {"config_sources": [own]}}})
    with pytest.raises(UsageError, match=r"cannot lead hydra\.job\.name .* got '\.\./mine'"):
        check_names(config)
    config.hydra.runtime.config_sources.append(own | {"path": str(tmp_path), "provider": "mine"})
    check_names(config)


@pytest.mark.parametrize("argument", FINE)
def test_a_command_line_may_say_what_runs_nothing(argument: str) -> None:
    check_command_line([argument])


def test_what_is_refused_is_refused_at_any_depth_of_lists_and_dicts() -> None:
    value = LOAD
    for depth in range(6):
        value = f"[1, {value}]" if depth % 2 else f"{{a: {value}}}"
        with pytest.raises(UsageError, match="classes of bilevel_cli"):
            check_command_line([f"+task.x={value}"])
        with pytest.raises(UsageError, match="needs the name of a class"):
            check_targets(OmegaConf.create(value), "task")


def test_nothing_is_built_of_a_node_whose_parts_lead_away(evil: None) -> None:
    del evil
    parts = OmegaConf.create(LOAD)
    for inner in (parts, [parts], {"x": [{"y": parts}]}):
        config = OmegaConf.create({"task": {"_target_": "builtins.dict", "x": inner}})
        with pytest.raises(
            UsageError, match=r"needs the name of a class, got torch\.optim\.optimizer"
        ):
            make(config, "task")


def test_every_class_of_conf_is_on_a_shelf() -> None:
    names, hydras = set[str](), set[str]()
    for path in CONF.rglob("*.yaml"):
        found = re.findall(r"_target_: *([\w.]+)", path.read_text(encoding="utf-8"))
        (hydras if path.is_relative_to(CONF / "hydra") else names).update(found)
    assert len(names) > 100
    assert [name for name in names if not on_a_shelf(name)] == []
    # Hydra makes the sweeper, and it the sampler: no setting of a run leads there.
    assert {name for name in hydras if not name.startswith("optuna.samplers.")} == {NAME}


def test_a_composed_class_of_others_needs_a_folder_of_ones_own(tmp_path: Path) -> None:
    config = OmegaConf.create(
        {"task": {"x": [{"_target_": "mine.Evil"}]}, "hydra": {"runtime": {}}}
    )
    own = {"path": str(CONF), "schema": "file", "provider": "main"}
    config.hydra.runtime.config_sources = [own]
    with pytest.raises(UsageError, match=r"task\.x\[0\]\._target_=mine\.Evil"):
        check_composed(config)
    config.hydra.runtime.config_sources.append(own | {"path": str(tmp_path), "provider": "mine"})
    check_composed(config)


def test_a_command_line_names_classes_of_ours_and_of_torch() -> None:
    check_command_line(["data._target_=bilevel_cli.data.digits.Digits", "-m", "seed=1,2"])
    check_command_line(["optimizer._target_='torch.optim.SGD'", "x={_target_: torch.optim.SGD}"])


def test_a_module_of_ours_does_not_lend_what_it_imports() -> None:
    node = OmegaConf.create(
        {"_target_": "bilevel_cli.commands.run.os.system", "command": "touch evil"}
    )
    with pytest.raises(UsageError, match="needs the name of a class"):
        check_arguments(node, "task", set())
    with pytest.raises(UsageError, match="needs the name of a class"):
        check_arguments(
            OmegaConf.create({"_target_": "bilevel_cli.commands.run.CONF"}), "task", set()
        )


@pytest.mark.parametrize("where", ["data", "model", "list"])
def test_the_manifest_of_a_run_cannot_name_any_class(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    evil = {"_target_": "mine.Evil", "command": f"touch {tmp_path / 'evil'}"}
    fine = {"_target_": "bilevel_cli.data.digits.Digits"}
    settings: dict[str, object] = {"data": fine, "model": fine, "device": fine, "seed": 0}
    changes: dict[str, dict[str, object]]
    changes = {"data": {"data": evil}, "model": {"model": evil}, "list": {"seed": [1, {"x": evil}]}}
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": settings | changes[where]}))

    def ended(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bilevel-distilled", str(tmp_path), *arguments])
        with pytest.raises(SystemExit) as stopped:
            distilled.main()
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "got mine.Evil" in ended()
    assert "--trust mine" in ended("--trust", "other")
    assert "Add --trust" not in ended("--trust", "mine")  # it is looked for, and not found
    assert not (tmp_path / "evil").exists()


def test_a_package_that_is_trusted_does_not_lend_what_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "lending.py").write_text("import os, torch\n")
    monkeypatch.syspath_prepend(tmp_path)
    fine = {"_target_": "bilevel_cli.data.digits.Digits"}
    settings = {"data": fine, "model": fine, "device": fine, "seed": 0}
    for name in ("lending.torch.load", "${oc.env:HOME}"):
        changed = settings | {"model": {"_target_": name, "f": "x"}}
        (tmp_path / "manifest.json").write_text(json.dumps({"settings": changed}))
        monkeypatch.setattr(sys, "argv", ["bilevel-distilled", str(tmp_path), "--trust", "lending"])
        with pytest.raises(SystemExit) as stopped:
            distilled.main()
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert "Add --trust torch" in said or "got one with ${...}" in said
        assert str(Path.home()) not in said.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "argument", ['seed="${oc\\x2eenv:SECRET_TOKEN}"', "seed=${device.threads}"]
)
def test_a_setting_in_the_place_of_the_manifests_is_written_out(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fine = {"_target_": "bilevel_cli.data.digits.Digits"}
    settings = {"data": fine, "model": fine, "device": fine, "seed": 0}
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": settings}))
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setattr(sys, "argv", ["bilevel-distilled", str(tmp_path), argument])
    with pytest.raises(SystemExit) as stopped:
        distilled.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "needs settings without ${...}" in said
    assert "hunter2" not in said


def test_workers_import_nothing_that_lies_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    begin = [sys.executable, "-c", "import json"]
    assert subprocess.run(begin).returncode == 7
    with workers_elsewhere():
        assert subprocess.run(begin).returncode == 0
    assert "PYTHONSAFEPATH" not in os.environ
    monkeypatch.syspath_prepend(tmp_path)  # the command itself looks there: python -m, --config-dir
    with workers_elsewhere():
        assert "PYTHONSAFEPATH" not in os.environ


# ---- the code itself


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]


def calls() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Every call in the package of something with a name: file, function, keywords of KEYWORDS."""
    for file, node in nodes():
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            known = [keyword for keyword in node.keywords if keyword.arg in KEYWORDS]
            yield file, name, {str(k.arg): ast.unparse(k.value) for k in known}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


NEVER = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"),
    *("pd.read_pickle", "pandas.read_pickle", "joblib.load", "cloudpickle.load", "marshal.loads"),
    *("torch.hub.load", "torch.jit.load", "archive.extract", "archive.extractall", "shelve.open"),
}
EXCEPTED = {
    # Carries out the checks of our own constructors from our own files, as importing them would,
    # and of no others: tests/config/test_early.py holds that.
    "config/early.py": {"exec", "compile"},
    # Only with a loader that builds nothing: the test below holds that.
    "report/read/bounded.py": {"yaml.load"},
}
IMPORTED = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "torch.hub"}
CHECKED = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
KEYWORDS = ("shell", "weights_only", "allow_pickle")


def test_no_code_of_ours_loads_a_pickle_or_runs_text() -> None:
    seen = set()
    for where, function, keywords in calls():
        assert function not in NEVER - EXCEPTED.get(where, set()), where
        assert keywords.get("shell", "False") == "False", where
        for name, (keyword, value) in CHECKED.items():
            if function == name:
                seen.add(name)
                assert keywords.get(keyword) == value, where
    assert seen == set(CHECKED)
    for where, node in nodes():
        if isinstance(node, ast.Import):
            assert not IMPORTED & {alias.name for alias in node.names}, where
        if isinstance(node, ast.ImportFrom):
            assert node.module not in IMPORTED, where


def test_the_yaml_of_strangers_is_loaded_by_a_loader_that_builds_nothing(tmp_path: Path) -> None:
    loaders = {
        ast.unparse(node.args[1])
        for file, node in nodes()
        if isinstance(node, ast.Call) and dotted(node.func) in ("yaml.load", "yaml.parse")
    }
    assert loaders == {"_Loader"}
    loader = vars(bounded)["_Loader"]
    assert loader.yaml_constructors == yaml.SafeLoader.yaml_constructors
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(bounded.Unread, match="tags"):
        bounded.of_yaml(path.read_bytes())


def test_objects_are_built_where_their_arguments_were_checked() -> None:
    builders = ("instantiate", "get_object", "get_class", "get_method", "call", "locate")
    where = {file for file, function, _ in calls() if function in builders}
    # options reads yaml files alone, and finds classes there without building them.
    assert where <= {"config/objects.py", "config/targets.py", "config/options.py"}
