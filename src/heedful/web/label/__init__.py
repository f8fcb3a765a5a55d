"""The labelers' pages."""
