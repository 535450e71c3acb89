"""The drafting loop, its sessions, and the mailbox between it and the link."""
