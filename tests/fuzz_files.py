"""Harmed files of every format that is read."""

from fuzz import Kind

FILES: dict[str, Kind] = {}
