"""Fuzzing: seeded variants of every format that mmssl reads from strangers, counted as read, refused or at fault.

`make fuzz` runs all of it (`python -m fuzz`, some 12,000 variants); `test_fuzz.py` a few of each format.
"""
