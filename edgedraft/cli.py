"""The `edgedraft` command: finds the subcommand, reads its settings and runs its module.

A program's package is imported only when its command is called, so that `edgedraft gateway` never loads torch.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from importlib import import_module

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from edge_agent import settings as agent
from edgedraft import __version__
from edgedraft.local.settings import BrowserFetchSettings, UpSettings
from edgedraft.settings import Settings
from gateway import settings as gateway
from loadtest import settings as loadtest
from verifier.settings import VerifierSettings

# Command words -> its settings, and the module whose main(settings) runs it. A table in place of pydantic-settings'
# CliSubCommand, whose help lists neither nested commands nor what they do, whose parser is built for all commands at
# each start (four times as long), and which would read EDGEDRAFT_VERIFIER, a setting of the gateway, as the subcommand.
COMMANDS: dict[tuple[str, ...], tuple[type[Settings], str]] = {
    ("up",): (UpSettings, "edgedraft.local.up"),
    ("verifier",): (VerifierSettings, "verifier.main"),
    ("gateway",): (gateway.GatewaySettings, "gateway.main"),
    ("attach",): (agent.AgentSettings, "edge_agent.main"),
    ("login",): (agent.LoginSettings, "edge_agent.desktop.login"),
    ("doctor",): (agent.DoctorSettings, "edge_agent.desktop.doctor"),
    ("agent", "install"): (agent.AgentInstallSettings, "edge_agent.desktop.service"),
    ("agent", "uninstall"): (agent.AgentUninstallSettings, "edge_agent.desktop.service"),
    ("agent", "status"): (agent.AgentStatusSettings, "edge_agent.desktop.service"),
    ("agent", "forget"): (agent.AgentForgetSettings, "edge_agent.desktop.forget"),
    ("keys", "create"): (gateway.KeysCreateSettings, "gateway.cli.keys"),
    ("keys", "list"): (gateway.KeysListSettings, "gateway.cli.keys"),
    ("keys", "update"): (gateway.KeysUpdateSettings, "gateway.cli.keys"),
    ("keys", "revoke"): (gateway.KeysRevokeSettings, "gateway.cli.keys"),
    ("tenants", "create"): (gateway.TenantsCreateSettings, "gateway.cli.tenants"),
    ("tenants", "list"): (gateway.TenantsListSettings, "gateway.cli.tenants"),
    ("usage",): (gateway.UsageSettings, "gateway.cli.usage"),
    ("db", "upgrade"): (gateway.DbUpgradeSettings, "gateway.cli.database"),
    ("browser", "fetch"): (BrowserFetchSettings, "edgedraft.local.browser_runtime"),
    ("distill",): (agent.DistillSettings, "edge_agent.distill"),
    ("draft", "evaluate"): (agent.DraftEvaluateSettings, "edge_agent.distill.measure"),
    ("draft", "fetch"): (agent.DraftFetchSettings, "edge_agent.onnx.fetch"),
    ("draft", "export"): (agent.DraftExportSettings, "edge_agent.onnx.export"),
    ("demo",): (loadtest.DemoSettings, "loadtest.demo"),
    ("bench",): (loadtest.BenchSettings, "loadtest.main"),
    ("gpu-check",): (loadtest.GpuCheckSettings, "loadtest.gpu_check.main"),
}

# Command words, or the first of them -> the extra of pyproject.toml with the packages that it needs.
EXTRAS = {
    "up": "demo",
    "verifier": "verifier",
    "gateway": "gateway",
    "attach": "agent",
    "keys": "gateway",
    "tenants": "gateway",
    "usage": "gateway",
    "db": "gateway",
    "distill": "export",
    "draft": "export",
    "draft fetch": "onnx",
    "demo": "demo",
    "bench": "bench",
    "gpu-check": "verifier",
}
PACKAGES = {"edgedraft", "gateway", "verifier", "edge_agent", "loadtest"}


def main(argv: list[str] | None = None) -> None:
    """Entry point. Exits with 2 for an unknown command or invalid values, with one line per problem on stderr.

    Exits with 1 when a package of the command's extra is not installed.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--version"]:
        print(f"edgedraft {__version__}")
        return
    words = next((words for words in COMMANDS if tuple(argv[: len(words)]) == words), None)
    if words is None:
        if _asks_for_help(argv):
            print(_usage())
            return
        print(f"edgedraft: no command {' '.join(argv[:2])!r}; edgedraft --help lists them", file=sys.stderr)
        sys.exit(2)
    settings = _read_settings(words, argv[len(words) :])
    try:
        import_module(COMMANDS[words][1]).main(settings)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(" ".join(words), EXTRAS.get(words[0]))
        if extra is None or (error.name or "").partition(".")[0] in PACKAGES:
            raise
        print(f"{_name(words)}: {error.name} is not installed: pip install 'edgedraft[{extra}]'", file=sys.stderr)
        sys.exit(1)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves out defaults that are empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        for empty in ("", "None", "()", "[]"):
            text = text and text.removesuffix(f" (default: {empty})")
        return text


def _read_settings(words: tuple[str, ...], arguments: list[str]) -> Settings:
    """The command's settings from flags, environment and defaults. Exits with 2 when one is invalid."""
    kind, _ = COMMANDS[words]
    name = _name(words)
    if "--" in arguments and "engine_args" in kind.model_fields:
        end = arguments.index("--")
        arguments = [*arguments[:end], f"--engine-args={shlex.join(arguments[end + 1 :])}"]
    try:
        return CliApp.run(kind, arguments, CliSettingsSource(kind, cli_prog_name=name, formatter_class=HelpFormatter))
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            field = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"{name}: {field}: {problem['msg']}", file=sys.stderr)
    except SettingsError as error:
        print(f"{name}: {str(error).removeprefix('error parsing CLI: ')}", file=sys.stderr)
    sys.exit(2)


def _asks_for_help(argv: list[str]) -> bool:
    """Whether the arguments are empty, --help, or the first word of a group of commands and --help."""
    in_group = bool(argv) and argv[0] in {words[0] for words in COMMANDS}
    return not argv or argv[1 if in_group else 0 :][:1] in (["-h"], ["--help"])


def _name(words: tuple[str, ...]) -> str:
    return " ".join(("edgedraft", *words))


def _usage() -> str:
    rows = [f"  {' '.join(words):<15} {(kind.__doc__ or '').splitlines()[0]}" for words, (kind, _) in COMMANDS.items()]
    return "\n".join(["usage: edgedraft COMMAND [--help | ...]", "", *rows])


if __name__ == "__main__":
    main()
