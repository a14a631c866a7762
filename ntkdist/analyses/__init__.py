"""Analyses of a run: each computes one result from its kernel, stores it and describes it."""
