"""Viser panels: they call the same functions as the commands, and hold no logic."""
