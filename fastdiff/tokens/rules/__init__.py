"""Rules: which tokens a step changes."""
