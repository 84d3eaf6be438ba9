"""The vocabulary of flows and the packet engine: no Ray, no machine learning."""
