"""What the project's own upkeep is done with; nothing here is installed."""
