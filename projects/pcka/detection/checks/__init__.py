"""Checks before training starts: the whole run, and its teacher."""
