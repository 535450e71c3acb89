"""EdgeDraft on one machine: the `up` command, child processes, the demo model and a Valkey."""
