"""Refurbishment by one flip after another: the methods ``exact`` and ``paper``."""
