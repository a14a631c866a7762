"""Gram matrices tile by tile: tiling, store, workers, executors and events.

This package knows kernels and stores, not runs: it is given addresses (a folder's
path or a URL).
"""
