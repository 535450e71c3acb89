"""The `edgedraft` command: finds the subcommand, reads its settings, hands over to the room that runs it.

It imports a room only when that room's command is called, so that `edgedraft gateway` never loads torch.
"""

from __future__ import annotations

import shlex
import sys
from importlib import import_module

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from edge_agent import settings as agent
from edgedraft import __version__
from edgedraft.local.settings import UpSettings
from edgedraft.settings import Settings
from gateway import settings as gateway
from loadtest import settings as loadtest
from verifier.settings import VerifierSettings

# words of the command -> its settings, and the module whose main(settings) runs it
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
    ("distill",): (agent.DistillSettings, "edge_agent.distill"),
    ("demo",): (loadtest.DemoSettings, "loadtest.demo"),
    ("bench",): (loadtest.BenchSettings, "loadtest.main"),
}


def main(argv: list[str] | None = None) -> None:
    """Entry point. Exits 2 when the words or values are off, with one line on stderr for each that is."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--version"]:
        print(f"edgedraft {__version__}")
        return
    words = next((words for words in COMMANDS if tuple(argv[: len(words)]) == words), None)
    if words is None:
        of_a_group = bool(argv) and argv[0] in {words[0] for words in COMMANDS}
        if not argv or argv[1 if of_a_group else 0 :][:1] in (["-h"], ["--help"]):
            print(_usage())
            return
        print(f"edgedraft: no command {' '.join(argv[:2])!r}; edgedraft --help lists them", file=sys.stderr)
        sys.exit(2)
    kind, module = COMMANDS[words]
    rest = argv[len(words) :]
    if "--" in rest and "engine_args" in kind.model_fields:
        rest, engines = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
        rest = [*rest, f"--engine-args={shlex.join(engines)}"]
    try:
        parsed = CliApp.run(
            type(kind.__name__, (kind,), {"__doc__": kind.__doc__, "model_config": {"cli_prog_name": _name(words)}}),
            cli_args=rest,
        )
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            field = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"{_name(words)}: {field}: {problem['msg']}", file=sys.stderr)
        sys.exit(2)
    except SettingsError as error:
        print(f"{_name(words)}: {str(error).removeprefix('error parsing CLI: ')}", file=sys.stderr)
        sys.exit(2)
    import_module(module).main(parsed)


def _name(words: tuple[str, ...]) -> str:
    return " ".join(("edgedraft", *words))


def _usage() -> str:
    rows = [f"  {' '.join(words):<15} {(kind.__doc__ or '').splitlines()[0]}" for words, (kind, _) in COMMANDS.items()]
    return "\n".join(["usage: edgedraft COMMAND [--help | ...]", "", *rows])


if __name__ == "__main__":
    main()
