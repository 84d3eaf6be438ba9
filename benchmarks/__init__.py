"""``serveflow bench``: figures, each with the machine, commit and settings it was taken with."""
