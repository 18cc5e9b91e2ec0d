"""Watching a run in a browser while it goes on: its state, and a page on this machine that shows it.

Nothing is written. Each file of results is read once, when it is new, and what is kept is small: counts, the latest
curves and sums; so a look at a run of a hundred thousand stages costs as little as one at a small one.
"""
