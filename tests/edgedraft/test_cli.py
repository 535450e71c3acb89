"""The `edgedraft` command: subcommands, flags, environment variables and error messages."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import AliasChoices

from edgedraft import __version__, cli
from edgedraft.settings import Settings

NEEDED = {
    "login": ["http://gateway"],
    "bench": ["quick"],
    "keys revoke": ["k1"],
    "keys update": ["k1"],
    "tenants create": ["acme"],
}
NAMES = [" ".join(words) for words in cli.COMMANDS]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("EDGEDRAFT_"):
            monkeypatch.delenv(name)


class Run:
    """Runs the command in this process and keeps what it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr(cli, "import_module", self._import)
        self.module = ""
        self.settings: Any = None
        self.code: int | str | None = 0
        self.out = self.err = ""

    def __call__(self, *argv: str, **environment: str) -> Run:
        self.module, self.settings, self.code = "", None, 0
        with self._monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            try:
                cli.main(list(argv))
            except SystemExit as ended:
                self.code = ended.code
        self.out, self.err = self._capsys.readouterr()
        return self

    def _import(self, name: str) -> SimpleNamespace:
        def main(settings: Settings) -> None:
            self.module, self.settings = name, settings

        return SimpleNamespace(main=main)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


# Commands


def test_the_commands_that_the_documents_name_exist() -> None:
    named = ["up", "verifier", "gateway", "attach", "keys create", "keys list", "keys revoke", "bench"]
    assert set(named) <= set(NAMES)


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["keys", "--help"]])
def test_help_lists_every_command(run: Run, argv: list[str]) -> None:
    assert run(*argv).code == 0
    assert run.err == ""
    for words, (kind, _) in cli.COMMANDS.items():
        row = next(line for line in run.out.splitlines() if line.strip().startswith(" ".join(words) + " "))
        assert row.endswith((kind.__doc__ or "").splitlines()[0])


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command_lists_every_flag(run: Run, name: str) -> None:
    kind, _ = cli.COMMANDS[tuple(name.split())]
    assert run(*name.split(), "--help").code == 0
    assert run.out.startswith(f"usage: edgedraft {name} ")
    for field in kind.model_fields:
        flag = field.replace("_", "-")
        assert f"--{flag}" in run.out or flag.upper() in run.out or field.upper() in run.out


@pytest.mark.parametrize("name", NAMES)
def test_a_command_hands_its_settings_to_its_module(run: Run, name: str) -> None:
    kind, module = cli.COMMANDS[tuple(name.split())]
    assert run(*name.split(), *NEEDED.get(name, [])).code == 0
    assert isinstance(run.settings, kind)
    assert run.module == module


def test_every_setting_has_a_description_and_no_alias() -> None:
    for kind, _ in cli.COMMANDS.values():
        for name, field in kind.model_fields.items():
            assert field.description, name
            # An alias would take the EDGEDRAFT_ from the variable's name.
            assert not isinstance(field.validation_alias, str | AliasChoices)


def test_help_has_no_empty_defaults(run: Run) -> None:
    help_text = run("gateway", "--help").out
    assert "(default: 8000)" in help_text
    assert "(default: )" not in help_text
    assert "(default: None)" not in help_text


def test_a_missing_package_is_one_line_with_the_extra_that_has_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "import_module", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["verifier"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "edgedraft verifier: torch is not installed: pip install 'edgedraft[verifier]'\n"


def test_every_command_that_needs_an_extra_names_one_that_exists() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(cli.EXTRAS) <= {name for words in cli.COMMANDS for name in (words[0], " ".join(words))}
    assert set(cli.EXTRAS.values()) <= set(project["optional-dependencies"])


def test_version(run: Run) -> None:
    assert run("--version").code == 0
    assert run.out == f"edgedraft {__version__}\n"


@pytest.mark.parametrize("argv", [["fly"], ["keys"], ["keys", "fly"], ["--fly"], ["fly", "--help"], ["create", "keys"]])
def test_an_unknown_command_is_one_line_on_stderr(run: Run, argv: list[str]) -> None:
    assert run(*argv).code == 2
    assert run.out == run.module == ""
    (line,) = run.err.splitlines()
    assert line.startswith("edgedraft: ")
    assert argv[0] in line
    assert "edgedraft --help" in line


# Values


def test_flag_goes_before_environment_before_default(run: Run) -> None:
    assert run("verifier").settings.port == 9000
    assert run("verifier", EDGEDRAFT_PORT="9001").settings.port == 9001
    assert run("verifier", "--port", "9002", EDGEDRAFT_PORT="9001").settings.port == 9002
    assert run("verifier", "--port=9003").settings.port == 9003


def test_arguments_after_the_dashes_are_the_engines(run: Run) -> None:
    made = run("verifier", "--engine", "vllm", "--", "--tensor-parallel-size", "2", "--hf-overrides", '{"a": "b c"}')
    assert made.settings.engine == "vllm"
    assert made.settings.engine_args == """--tensor-parallel-size 2 --hf-overrides '{"a": "b c"}'"""
    assert run("verifier", "--", "--enforce-eager").settings.engine_args == "--enforce-eager"
    assert run("verifier", EDGEDRAFT_ENGINE_ARGS="--enforce-eager").settings.engine_args == "--enforce-eager"
    assert run("gateway", "--", "--tensor-parallel-size", "2").code == 2
    assert run("verifier", "--engine", "tensorrt").code == 2


def test_variables_without_the_prefix_are_ignored(run: Run) -> None:
    assert run("verifier", PORT="9001").settings.port == 9000
    assert run("bench", "quick", JSON="/tmp/other").settings.json_file is None
    assert run("verifier", EDGEDRAFT_URL="http://gateway", EDGEDRAFT_UNKNOWN="1").code == 0


def test_boolean_flags(run: Run) -> None:
    assert run("up").settings.agent is True
    assert run("up", "--no-agent").settings.agent is False
    assert run("up", EDGEDRAFT_AGENT="false").settings.agent is False
    assert run("up", "--agent", EDGEDRAFT_AGENT="0").settings.agent is True


def test_lists_may_be_repeated_or_separated_by_commas(run: Run) -> None:
    both = ["ws://a:1", "ws://b:2"]
    assert run("gateway", "--verifier", "ws://a:1").settings.verifier == both[:1]
    assert run("gateway", "--verifier", "ws://a:1", "--verifier", "ws://b:2").settings.verifier == both
    assert run("gateway", "--verifier", "ws://a:1,ws://b:2").settings.verifier == both
    assert run("gateway", EDGEDRAFT_VERIFIER="ws://a:1").settings.verifier == both[:1]
    assert run("gateway", EDGEDRAFT_VERIFIER="ws://a:1, ws://b:2").settings.verifier == both
    assert run("gateway", EDGEDRAFT_VERIFIER='["ws://a:1", "ws://b:2"]').settings.verifier == both
    assert run("gateway", "--verifier", "ws://a:1", EDGEDRAFT_VERIFIER="ws://c:3").settings.verifier == both[:1]
    assert run("keys", "create", "--scopes", "edge", "--scopes", "admin").settings.scopes == ["edge", "admin"]
    assert run("keys", "create", EDGEDRAFT_SCOPES="edge").settings.scopes == ["edge"]


def test_positional_arguments(run: Run) -> None:
    attached = run("attach", "http://gateway", "--draft-model", "d", EDGEDRAFT_KEY="k").settings
    assert (attached.url, attached.key, attached.draft_model) == ("http://gateway", "k", "d")
    assert run("keys", "revoke", "k1").settings.key_id == "k1"


def test_the_file_of_a_bench(run: Run) -> None:
    assert run("bench", "quick").settings.json_file is None
    assert run("bench", "quick", "--json", "a.json").settings.json_file == Path("a.json")
    assert run("bench", "quick", "--json-file", "a.json").settings.json_file == Path("a.json")
    assert run("bench", "quick", EDGEDRAFT_JSON_FILE="b.json").settings.json_file == Path("b.json")


def test_values_that_look_like_something_else_stay_text(run: Run) -> None:
    for key in ("null", "[1]", '{"a": 1}', "a,b", "a=b", " x "):
        assert run("up", "--key", key).settings.key == key
        assert run("up", EDGEDRAFT_KEY=key).settings.key == key


INVALID = {
    "out of range": (["verifier", "--port", "65536"], {}, "port"),
    "negative": (["verifier", "--port=-1"], {}, "port"),
    "no number": (["verifier", "--port", "http"], {}, "port"),
    "in a variable": (["verifier"], {"EDGEDRAFT_MAX_SESSIONS": "0"}, "max-sessions"),
    "no choice": (["up", "--log-level", "loud"], {}, "log-level"),
    "no scope": (["keys", "create", "--scopes", "edge", "--scopes", "root"], {}, "scopes"),
    "no list": (["gateway"], {"EDGEDRAFT_VERIFIER": '["ws://a:1"'}, "verifier"),
    "no truth": (["up"], {"EDGEDRAFT_AGENT": "perhaps"}, "agent"),
    "a word is needed": (["bench"], {}, "NAME"),
    "a URL is needed": (["login"], {}, "URL"),
    "a value is needed": (["up", "--port"], {}, "--port"),
    "unknown flag": (["up", "--fly", "high"], {}, "--fly"),
    "abbreviated flag": (["up", "--draft", "d"], {}, "--draft"),
    "a word too many": (["up", "high"], {}, "high"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_value_is_one_line_on_stderr(run: Run, name: str) -> None:
    argv, environment, about = INVALID[name]
    assert run(*argv, **environment).code == 2
    assert run.out == run.module == ""
    (line,) = run.err.splitlines()
    words = next(words for words in cli.COMMANDS if tuple(argv[: len(words)]) == words)
    assert line.startswith(f"edgedraft {' '.join(words)}: ")
    assert about in line.removeprefix(f"edgedraft {' '.join(words)}: ")


def test_each_invalid_value_has_its_own_line(run: Run) -> None:
    assert run("verifier", "--port", "x", "--threads", "-1").code == 2
    assert len(run.err.splitlines()) == 2


# The process


def test_the_command_loads_settings_only_and_no_torch() -> None:
    """So that a gateway starts in about a second, and help at once."""
    code = """
import sys
from edgedraft import cli
cli.main(['--version'])
programs = ('verifier', 'gateway', 'edge_agent', 'loadtest')
settings = {*programs, *(f'{program}.settings' for program in programs)}
heavy = {name for name in sys.modules if name.partition('.')[0] in programs} - settings
print(sorted(heavy | {'torch', 'transformers', 'fastapi'} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"edgedraft {__version__}", "[]"]


def test_the_exit_status_is_the_process_own() -> None:
    command = [sys.executable, "-m", "edgedraft.cli", "verifier", "--port", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
