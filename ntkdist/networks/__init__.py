"""Architectures: layers, presets and one canonical text form."""
