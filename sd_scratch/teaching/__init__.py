"""The exercises that people learn diffusion with, as functions: each gives a table and a figure.

They follow the exercises of a tutorial ("Learn AI", episodes 84 and 85), with the values put right where
the tutorial is wrong (docs/errata.md).
"""

from sd_scratch.teaching.exercises import EXERCISES, Exercise, Table, get_exercise

__all__ = ["EXERCISES", "Exercise", "Table", "get_exercise"]
