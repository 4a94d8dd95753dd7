"""`python -m examples.speech --out FOLDER`: the detail of a spectrogram of speech, drawn given its blurred form.

A flow decoder with Matcha-TTS' protocol, trained for minutes on the reference speech that f5-tts ships, fills in what
blurring took; Griffin and Lim's method makes it sound. Euler's steps, the library's own, are beside fastdiff's default.
--quick is a test's size, on a made-up voice.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

import fastdiff as fd
from fastdiff.hosts import matcha_tts

from .music.network import Block

RATE, FFT, HOP, BANDS, FRAMES = 24000, 1024, 256, 64, 64
EVALUATIONS = (4, 6, 8, 10, 20)
FLOW = fd.Schedule.flow()


def shipped() -> list[Tensor]:
    """The sentences of f5-tts' wheel, read by two people, 12 seconds in all, [samples] each in [-1, 1]."""
    found = importlib.util.find_spec("f5_tts")
    if found is None:
        raise SystemExit("no speech: pip install --no-deps f5-tts")
    folder = Path(next(iter(found.submodule_search_locations or ()))) / "infer/examples/basic"
    return [torch.from_numpy(wavfile.read(path)[1] / 2**15).float() for path in sorted(folder.glob("*.wav"))]


def made_up(seconds: float = 2.0) -> list[Tensor]:
    """A voice of gliding harmonics."""
    t = torch.arange(int(seconds * RATE)) / RATE
    phase = 2 * torch.pi * (140 * t + 8 * torch.sin(3 * t))
    return [sum(torch.sin(k * phase) / k for k in range(1, 20)) * torch.sin(6 * t).abs() / 2]  # type: ignore[list-item]


def mel_filters() -> Tensor:
    """[BANDS, FFT / 2 + 1] triangles, even in mel."""
    edges = 700 * (10 ** (torch.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2) / 2595) - 1)
    f = torch.linspace(0, RATE / 2, FFT // 2 + 1)
    rise = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp(min=0) + 1e-8


def spectrogram(wave: Tensor) -> Tensor:
    """[BANDS, frames] log mel magnitudes, of about unit variance."""
    magnitude = torch.stft(wave, FFT, HOP, window=torch.hann_window(FFT), return_complex=True).abs()
    return ((mel_filters() @ magnitude).clamp(min=1e-3).log() + 1) / 2.5


def sound(mel: Tensor, rounds: int = 32) -> Tensor:
    """[samples]: magnitudes from the filters' pseudo-inverse, phases by Griffin & Lim 1984."""
    magnitude = (torch.linalg.pinv(mel_filters()) @ (2.5 * mel - 1).exp()).clamp(min=0)
    window = torch.hann_window(FFT)
    phase = torch.randn(magnitude.shape, generator=torch.Generator().manual_seed(0)) * torch.pi
    for _ in range(rounds):
        wave = torch.istft(torch.polar(magnitude, phase), FFT, HOP, window=window)
        phase = torch.stft(wave, FFT, HOP, window=window, return_complex=True).angle()
    return wave / wave.abs().max()


def blurred(mel: Tensor) -> Tensor:
    """[B, BANDS, frames] means over 8 bands and 4 frames: what an encoder knows."""
    return interpolate(avg_pool2d(mel[:, None], (8, 4)), size=mel.shape[1:], mode="bilinear")[:, 0]


class Network(nn.Module):
    """The velocity noise - x0 of x [B, BANDS, frames], t [B], given mu."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(2 * BANDS, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, dilation) for dilation in (1, 2, 4, 1, 2, 4))
        self.last = nn.Conv1d(width, BANDS, 1)

    def forward(self, x: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        angles = t.float()[:, None] * torch.logspace(0, 3, 32)
        time = torch.cat([angles.cos(), angles.sin()], 1)
        h = self.first(torch.cat([x, mu], 1))
        for block in self.blocks:
            h = block(h, time)
        return self.last(nn.functional.silu(h))


class Decoder(nn.Module):
    """Matcha-TTS' BASECFM: an estimator of data - noise, t = 1 at data, and Euler's steps."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def estimator(self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Any, cond: Any) -> Tensor:
        return -self.network(x, (1 - t).expand(len(x)), mu) * mask

    def solve_euler(self, x: Tensor, t_span: Tensor, mu: Tensor, mask: Tensor, spks: Any, cond: Any) -> Tensor:
        for i in range(len(t_span) - 1):
            x = x + (t_span[i + 1] - t_span[i]) * self.estimator(x, mask, mu, t_span[i], spks, cond)
        return x

    @torch.no_grad()
    def draw(self, mu: Tensor, steps: int) -> Tensor:
        noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(1))
        return self.solve_euler(noise, torch.linspace(0, 1, steps + 1), mu, torch.ones(len(mu), 1, 1), None, None)


def train(mels: list[Tensor], steps: int, width: int = 192, batch: int = 24) -> Decoder:
    torch.manual_seed(0)
    network = Network(width)
    average = fd.training.averaged(network, 0.995, warmup=9)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rows = torch.cat([mel.unfold(1, FRAMES, 4).transpose(0, 1) for mel in mels])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        x0 = rows[torch.randint(len(rows), (batch,))]
        loss = fd.training.flow_loss(network, FLOW, x0, mu=blurred(x0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(network)
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return Decoder(average.module.eval())


def decibels(x: Tensor, y: Tensor) -> float:
    """Log-spectral distance: the root mean square over bands in dB, averaged over frames."""
    return float((2.5 * 20 / np.log(10) * (x - y)).square().mean(1).sqrt().mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.speech", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the table, picture and sound")
    parser.add_argument("--quick", action="store_true", help="a small run on a made-up voice, in seconds")
    parser.add_argument("--steps", type=int, default=700, help="of training")
    given = parser.parse_args(arguments)
    mels = [spectrogram(wave) for wave in (made_up() if given.quick else shipped())]
    ends = [int(0.8 * mel.shape[1]) for mel in mels]  # the last fifth of each is not trained on
    known, heard = ([mel[:, :end] for mel, end in zip(mels, ends, strict=True)], mels[0][None, :, ends[0] :])
    decoder = train(known, 3, 16, 2) if given.quick else train(known, given.steps)
    mu = blurred(heard)
    converged = _fastdiff(decoder, mu, 20 if given.quick else 200)
    lines = ["| sampler | NFE | dB from converged | dB from the recording |", "| --- | --- | --- | --- |"]
    lines.append(f"| the blurred input | 0 | {decibels(mu, converged):.2f} | {decibels(mu, heard):.2f} |")
    lines.append(f"| converged |  | 0 | {decibels(converged, heard):.2f} |")
    for count in EVALUATIONS:
        for name, x in (("Euler", decoder.draw(mu, count)), ("fastdiff", _fastdiff(decoder, mu, count))):
            lines.append(f"| {name} | {count} | {decibels(x, converged):.2f} | {decibels(x, heard):.2f} |")
    print("\n".join(lines))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "speech.md").write_text("\n".join(lines) + "\n")
        drawn = {"blurred": mu, "Euler, 6": decoder.draw(mu, 6), "fastdiff, 6": _fastdiff(decoder, mu, 6)}
        _write(given.out, drawn | {"converged": converged, "recording": heard})


def _fastdiff(decoder: Decoder, mu: Tensor, count: int) -> Tensor:
    handle = matcha_tts.patch(decoder)
    x = decoder.draw(mu, count)
    handle.undo()
    return x


def _write(out: Path, mels: dict[str, Tensor]) -> None:
    figure, axes = plt.subplots(len(mels), 1, figsize=(6, 1.4 * len(mels)), sharex=True, layout="constrained")
    for ax, (title, mel) in zip(axes, mels.items(), strict=True):
        ax.imshow(mel[0].numpy(), origin="lower", aspect="auto", vmin=-2.5, vmax=2, cmap="magma")
        ax.set_ylabel(title, fontsize=8)
        ax.set_yticks([])
        name = title.replace(", ", "_")
        wavfile.write(out / f"{name}.wav", RATE, (sound(mel[0]) * 30000).numpy().astype(np.int16))
    axes[-1].set_xlabel(f"frames of {1000 * HOP / RATE:.1f} ms")
    figure.savefig(out / "speech.png", dpi=70)


if __name__ == "__main__":
    main()
