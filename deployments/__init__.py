"""Ray Serve deployments and the dispatch between them."""
