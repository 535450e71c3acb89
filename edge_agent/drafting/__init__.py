"""The drafting loop, its sessions and its pace."""
