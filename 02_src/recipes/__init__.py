"""Compare recipes (overrides of a config) by training and evaluating each with several seeds."""
