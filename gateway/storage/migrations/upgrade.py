"""Applies missing migrations inside the caller's transaction."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection


class UnknownRevision(Exception):
    """The database has a revision that this version does not know."""


def upgrade(connection: Connection) -> None:
    """Migrates to the newest revision. Raises UnknownRevision."""
    config = scripts()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise UnknownRevision(str(error)) from error


def scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def head() -> str | None:
    """The newest revision among the files."""
    return ScriptDirectory.from_config(scripts()).get_current_head()
