"""Many samples by many processes: who draws what, and files that do not depend on it.

Distribution is torch's own: `torchrun` starts the processes and torch.distributed connects them. What is here says
which of them draws which seeds, and keeps what they have drawn.
"""

from .draw import Draw
from .drawing import Drawn, sample_to
from .measure import Measure
from .sharding import shard

__all__ = ["Draw", "Drawn", "Measure", "sample_to", "shard"]
