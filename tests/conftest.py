"""What holds for all tests: nothing that a user keeps on this machine is read or written."""

from __future__ import annotations

import os

os.environ["EDGEDRAFT_PAST_OUTPUTS"] = "false"
