"""Refurbishment by one flip after another: the methods ``exact`` and ``paper``.

``loop`` chooses the flips, ``blocks`` and ``rows`` hold G and evaluate moves in row blocks,
``columns`` fetches columns of H⁻¹, and ``checkpoint`` stores the state.
"""
