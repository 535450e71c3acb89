"""The desktop side: drafts with a small model for the chats of whoever runs it."""
