"""Looking inside of a run: what happened at each step, as numbers, as a file and as a page; and at what it drew: which
share of the data, and how sure an ensemble is where.
"""

from .maps import draw_maps, maps
from .support import Coverage, coverage

__all__ = ["Coverage", "coverage", "draw_maps", "maps"]
