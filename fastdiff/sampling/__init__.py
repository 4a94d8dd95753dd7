"""Runs of plans: a model, its noise, and the loop."""
