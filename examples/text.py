"""Text: a masked language model writes and fills gaps, by diffusers' pipeline and by `fastdiff.tokens`.

python -m examples.text [--quick] [--out FOLDER]

The model, 1.5 million parameters, ships with fastdiff; diffusers' LLaDA2Pipeline runs it as it would run LLaDA. Rows
have equal calls of the network. Recovered: of the tokens masked in held-out text, how many are filled in rightly. With
the extra `demo` an n-gram model of the same chapters judges what is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

import fastdiff as fd
from bench.markdown import table
from fastdiff import demo

PROMPT, BLOCK, TEMPERATURE = "In those days", 32, 0.8
GAPS = 0.4  # the share of held-out tokens that is masked
SHOWN = 230  # signs of an example


class Logits(nn.Module):
    """The network as transformers' models answer; it draws the style that each sample asks for."""

    def __init__(self, net: demo.TextNetwork, styles: Tensor) -> None:
        super().__init__()
        self.model, self.styles = net.model, styles
        self.device, self.dtype = styles.device, torch.float32

    def forward(self, input_ids: Tensor, **others: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(input_ids, y=self.styles))


def by_pipeline(scheduler: object, net: demo.TextNetwork, start: Tensor, styles: Tensor, calls: int) -> Tensor:
    """LLaDA2Pipeline: blocks of 32 from left to right, the surest tokens first."""
    torch.manual_seed(0)
    pipe = diffusers.LLaDA2Pipeline(Logits(net, styles), scheduler)
    pipe.set_progress_bar_config(disable=True)
    prompt = start[:, : int((start[0] != net.mask_id).sum())]
    blocks = -(-start.shape[1] // BLOCK)
    options = {"mask_token_id": net.mask_id, "eos_token_id": None, "eos_early_stop": False, "output_type": "seq"}
    written = pipe(
        input_ids=prompt, gen_length=start.shape[1] - prompt.shape[1], block_length=BLOCK,
        num_inference_steps=max(calls // blocks, 1), temperature=TEMPERATURE, threshold=1.0, **options,
    )  # fmt: skip
    return torch.cat([prompt, written.sequences], dim=1)


def written(net: demo.TextNetwork, calls: int, count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The tokens [count, 128] that each sampler writes after the prompt, and their styles."""
    styles = torch.arange(count) % len(net.classes)
    start = net.read(PROMPT, net.length).expand(count, -1)
    plans = {
        "fastdiff, random order, cosine sizes": fd.tokens.plan("random", calls, sizes="cosine"),
        "fastdiff, random order, fitted sizes": net.plan(calls),
        "fastdiff, surest first": fd.tokens.plan("confidence", calls),
    }
    found = {
        "diffusers' BlockRefinementScheduler": by_pipeline(
            diffusers.BlockRefinementScheduler(), net, start, styles, calls
        ),
        "the same pipeline, fastdiff's": by_pipeline(fd.BlockRefinementScheduler(), net, start, styles, calls),
    }
    options = {"temperature": TEMPERATURE, "seeds": range(count), "y": styles}
    for name, plan in plans.items():
        found[name] = fd.tokens.sample(net.model, plan, start, net.mask_id, **options)
    return {name: (tokens, styles) for name, tokens in found.items()}


def recovered(net: demo.TextNetwork, rule: str, calls: int) -> float:
    """The share of masked tokens of held-out text that the most probable ones get right."""
    gaps = torch.rand(net.examples.shape, generator=torch.Generator().manual_seed(0)) < GAPS
    start = net.examples.masked_fill(gaps, net.mask_id)
    plan = fd.tokens.plan(rule, calls, sizes="cosine")
    filled = fd.tokens.sample(
        net.model, plan, start, net.mask_id, temperature=0.0, seeds=range(len(start)), y=net.labels
    )
    return float((filled == net.examples)[gaps].float().mean())


def judge(net: demo.TextNetwork) -> Any:
    """Perplexity by n-grams, where the text that the network learned is installed."""
    try:
        from bench.text_judge import TextJudge

        return TextJudge(net.vocabulary)
    except ModuleNotFoundError:
        return None


def distinct(tokens: Tensor) -> float:
    """The share of different ones among all pairs of neighbours."""
    pairs = torch.stack([tokens[:, :-1], tokens[:, 1:]]).flatten(1)
    return pairs.unique(dim=1).shape[1] / pairs.shape[1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few samples and calls")
    parser.add_argument("--out", type=Path, help="folder for the table and the texts")
    options = parser.parse_args(arguments)
    net = demo.token_network("text")
    assert isinstance(net, demo.TextNetwork)
    count, budgets = (6, (8,)) if options.quick else (48, (8, 16, 32, 64))
    critic, rows, texts = judge(net), [], []
    for calls in budgets:
        for name, (tokens, styles) in written(net, calls, count).items():
            scores = critic.measure(tokens, styles) if critic else {}
            perplexity = f"{scores['perplexity']:.1f}" if scores else ""
            rows.append((calls, name, perplexity, f"{distinct(tokens):.2f}"))
            if calls in (budgets[0], budgets[-1]):
                texts.append(f"- {name}, {calls} calls: {net.write(tokens[4:5])[0][:SHOWN]}")
    if critic:
        real = critic.held_out(net.length, count)
        rows.append(("", "held-out text", f"{real['perplexity']:.1f}", f"{real['distinct_2']:.2f}"))
    filling = [
        (calls, *(f"{recovered(net, rule, calls):.3f}" for rule in ("random", "confidence", "margin")))
        for calls in (1, *budgets)
    ]
    written_table = table(("calls", "sampler", "perplexity", "distinct-2"), rows)
    gaps_table = table(("calls", "random order", "surest first", "margin"), filling)
    shown = ("# Text", written_table, "## Gaps", gaps_table, "## The first gospel of each", "\n".join(texts))
    report = "\n\n".join(shown)
    print(report)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "text.md").write_text(report + "\n")


if __name__ == "__main__":
    main()
