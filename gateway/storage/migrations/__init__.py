"""The schema's history: one file a step in versions/, applied in order by Alembic (upgrade.py).

HEAD is told here as well, so that a gateway whose database is up to date starts without loading Alembic.
"""

HEAD = "0004"
