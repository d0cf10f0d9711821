"""Studies of trainings: runs over seeds, their tables and pictures, and pages that report them.

This package imports all others and is imported by none: training works without it.
"""
