"""MixtureDiscreteEulerSolver: steps of a continuous-time Markov chain along a mixture path (arXiv:2407.15595)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...ops import token_stats
from ...sampling.noise import seed_tensor
from ...sampling.token_draws import Draws, GeneratorDraws, SeededDraws
from .jumps import Source, jump
from .times import nearest, times_of


class MixtureDiscreteEulerSolver:
    """Samples p_1 from p_0, given the posterior p(x_1 | x_t) of each token, Gat et al. 2024.

    In a step of h each token jumps with probability 1 - exp(-h lambda), by the rates of x_1 drawn from the posterior,

        u(x) = k' / (1 - k) [x = x_1] + c k' / (k (1 - k)) ((1 - k) p_0(x) + k [x = x_1])   for x != x_t,

    with their sum lambda, the path's k(t) and c = div_free. The last step takes x_1.

    model: called as model(x=x_t, t=[B], **model_extras) -> [B, ..., V] probabilities, or logits with logits=True,
    which are read once and need no softmax. path: path.scheduler(t=t) has alpha_t and d_alpha_t, k and k'.
    source_distribution_p: [V], p_0, needed with div_free. Raises ValueError naming the argument.
    """

    def __init__(
        self,
        model: Callable[..., Tensor],
        path: Any,
        vocabulary_size: int,
        source_distribution_p: Tensor | None = None,
        *,
        logits: bool = False,
    ) -> None:
        self.model, self.path, self.vocabulary_size, self.logits = model, path, vocabulary_size, logits
        self.source_distribution_p = source_distribution_p
        if source_distribution_p is not None and source_distribution_p.shape != (vocabulary_size,):
            shape = tuple(source_distribution_p.shape)
            raise ValueError(f"source_distribution_p: expected shape [{vocabulary_size}], got {shape}")

    @torch.no_grad()
    def sample(
        self,
        x_init: Tensor,
        step_size: float | None,
        div_free: float | Callable[[Tensor], float | Tensor] = 0.0,
        dtype_categorical: torch.dtype = torch.float32,
        time_grid: Tensor | Sequence[float] = (0.0, 1.0),
        return_intermediates: bool = False,
        verbose: bool = False,
        *,
        seeds: Sequence[int] | Tensor | None = None,
        **model_extras: Any,
    ) -> Tensor:
        """Tokens like x_init, [B, ...] int64; with return_intermediates one more axis in front, of the time grid.

        step_size: of even steps from time_grid[0] to time_grid[-1]; None steps on the grid itself. div_free: c, a
        number or a function of t [1]. dtype_categorical: of probabilities and logits, before the draw. seeds: B whole
        numbers, for tokens that do not depend on the batch; torch's default generator where None.
        The loop reads no tensor's value. Raises TypeError or ValueError naming the argument.
        """
        if (callable(div_free) or div_free != 0) and self.source_distribution_p is None:
            raise ValueError("source_distribution_p: expected the source's [V], because div_free is not 0; got None")
        times, wanted = times_of(step_size, time_grid)
        known = None if seeds is None else seed_tensor(seeds, len(x_init), x_init.device)
        grid = torch.tensor(times).to(x_init.device, non_blocking=True)
        source = None
        if self.source_distribution_p is not None:
            source = Source.of(self.source_distribution_p.to(x_init.device))

        x, states = x_init.clone(), [x_init.clone()]
        for i in tqdm(range(len(times) - 1), disable=not verbose):
            t, h = grid[i : i + 1], grid[i + 1 : i + 2] - grid[i : i + 1]
            draws: Draws = GeneratorDraws(None, x.device) if known is None else SeededDraws(known, i)
            clean = self._posterior(x, t, dtype_categorical, draws, model_extras)
            if i < len(times) - 2:
                rate = div_free(t) if callable(div_free) else div_free
                clean = jump(x, clean, self.path.scheduler(t=t), h, rate, source, draws)
            x = clean
            if return_intermediates:
                states.append(x)
        return torch.stack([states[k] for k in nearest(wanted, times)]) if return_intermediates else x

    def _posterior(self, x: Tensor, t: Tensor, dtype: torch.dtype, draws: Draws, extras: dict) -> Tensor:
        """x_1, drawn from the model's law."""
        out = self.model(x=x, t=t.repeat(len(x)), **extras).to(dtype)
        logits = out if self.logits else out.log()
        return token_stats(logits, temperature=1.0, **draws.of_rows(len(x))).sample
