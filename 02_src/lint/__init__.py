"""Checks of a preference data set, one concern a module; `dataset_lint` runs them all."""
