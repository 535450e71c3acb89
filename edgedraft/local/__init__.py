"""EdgeDraft on one machine: the `up` command, its process supervisor, the demo model and a local Valkey."""
