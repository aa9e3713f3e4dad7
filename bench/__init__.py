"""Measurements, always as ratios against a peer run in the same minute: ``make bench``."""
