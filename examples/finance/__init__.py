"""Paths of a stock index: do they look like the market's, and are their risks the ones that came?"""
