"""Servers that have no command line of their own."""
