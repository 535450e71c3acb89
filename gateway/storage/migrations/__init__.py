"""Schema migrations: one file per revision in versions/, applied in order by Alembic (upgrade.py).

HEAD repeats the newest revision, so that a gateway with an up-to-date database starts without loading Alembic.
"""

HEAD = "0008"
