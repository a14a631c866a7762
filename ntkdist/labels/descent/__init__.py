"""Refurbishment by one flip after another: the methods ``exact`` and ``paper``.

``loop`` chooses the flips, ``blocks`` holds G in row blocks and evaluates their moves, and
``checkpoint`` stores the state.
"""
