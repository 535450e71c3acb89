"""`edgedraft agent forget`: deletes the past outputs."""

from __future__ import annotations

from edge_agent.settings import AgentForgetSettings


def main(settings: AgentForgetSettings) -> None:
    """Delete the files of past outputs. A running agent keeps what it holds in memory until it ends."""
    files = [*settings.past_folder.glob("*.tokens"), *settings.past_folder.glob("*.partial")]
    size = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    print(f"edgedraft forgot {len(files)} files, {size / 1e6:.1f} MB, in {settings.past_folder}")
