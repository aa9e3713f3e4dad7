"""Plugins that give addresses."""
