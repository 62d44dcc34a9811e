"""Typed, layered configuration with provenance."""
