"""Recipes: functions that return a complete, named training configuration for a dataset.

    summary.py   what a recipe knows of the data
    builtin.py   the recipes; `RECIPES` names them

A recipe returns a whole `TrainConfig`; the command line overrides its fields. Import from the modules; this file
imports nothing.
"""
