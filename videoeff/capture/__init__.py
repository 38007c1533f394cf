"""From a model and an example call to a Program: whole, or in parts."""
