"""A recipe: its sections and their options, reading and checking it, and lists of what it can name."""

from __future__ import annotations

LISTS = ("modalities", "objectives", "recipes", "masks", "formats")
"""What `mmssl list` lists: functions of `listing`."""
