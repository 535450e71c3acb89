"""Logs, OpenTelemetry and progress bars."""
