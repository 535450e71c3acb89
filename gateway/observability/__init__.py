"""Prometheus metrics, OpenTelemetry spans and the dashboard's live figures."""
