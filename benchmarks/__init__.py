"""Measurements; each prints the machine, the commit and the settings with its figures."""
