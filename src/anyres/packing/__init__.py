"""Lengths → packs: the tokens of several images laid end to end in one sequence.

    algorithms.py  which images share a pack: pure functions on lengths
    draws.py       how often each image is drawn in an epoch
    fixed.py       the packs that a dataset brings, instead
    plan.py        the packs of an epoch, from (seed, epoch)
    dealing.py     the packs of a step made equally costly, and dealt to processes
    pack.py        what a pack is: its layout and its static shape
    loader.py      packs of latents for training

Import from the modules; this file imports nothing, so that `pack` needs torch alone.
"""
