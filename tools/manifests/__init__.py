"""Making and checking what stands in ``k8s/``."""
