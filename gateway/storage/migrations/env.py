"""Alembic's environment: runs the migrations on the connection, and in the transaction, that upgrade.py passes."""

from alembic import context

from gateway.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
