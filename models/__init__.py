"""The mathematics of the cascade: features, models, bundles. No Ray."""
