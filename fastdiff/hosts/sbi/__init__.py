"""sbi's posteriors of score and flow estimators (NPSE, FMPE) drawn by fastdiff's plans.

    import fastdiff.hosts.sbi  # registers the predictor

    posterior = inference.build_posterior(sample_with="sde")
    theta = posterior.sample((10_000,), x=x_o, predictor="fastdiff", steps=11)  # was: 500 steps

`steps` counts the ends of steps, as sbi does: 11 are 10 evaluations of the network.
"""

from .predictor import FastdiffPredictor

__all__ = ["FastdiffPredictor"]
