"""The HTTP application: request schema, online features, degradation, health and metrics."""
