"""MVDream's UNet once more, in plain torch and with the original's parameter names, to hold ours against.

Written for these tests from the architecture's description, without diffusers and without fused attention. It is not
the original network; it was compared with it through golden files of the original, to 5e-6.

``python tests/plain_mvdream.py`` writes tests/fixtures/mvdream_unet_tiny.safetensors.gz.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIXTURE = Path(__file__).parent / "fixtures" / "mvdream_unet_tiny.safetensors.gz"


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.skip_connection(x) + self.out_layers(self.in_layers(x) + self.emb_layers(emb)[:, :, None, None])


class Attention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class GatedGelu(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGelu(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width, heads), Attention(width, context, heads)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        y = self.norm1(x)
        y = y.reshape(len(y) // frames, -1, y.shape[-1])  # (b f) l c -> b (f l) c
        x = x + self.attn1(y, y).reshape(x.shape)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, width: int, context: int, heads: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([Block(width, context, heads)])
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        y = self.norm(x)
        if not self.linear:
            y = self.proj_in(y)
        y = y.flatten(2).transpose(1, 2)
        if self.linear:
            y = self.proj_in(y)
        y = self.transformer_blocks[0](y, context, frames)
        if self.linear:
            y = self.proj_out(y)
        y = y.transpose(1, 2).reshape(x.shape)
        return x + (y if self.linear else self.proj_out(y))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)


class PlainMVDream(nn.Module):
    def __init__(
        self,
        channels: int,
        mult: tuple[int, ...],
        context: int,
        heads: int,
        linear: bool,
        *,
        depth: int = 1,
        attends: tuple[bool, ...] | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        attends = attends or (True,) * len(mult)
        width = 4 * channels

        def transformer(c: int) -> Transformer:
            return Transformer(c, context, heads, linear)

        def layers(level: int, inputs: int) -> list[nn.Module]:
            c = mult[level] * channels
            return [Residual(inputs, c, width), *([transformer(c)] if attends[level] else [])]

        self.time_embed = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        self.camera_embed = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        inputs: list[nn.ModuleList] = [nn.ModuleList([nn.Conv2d(4, channels, 3, padding=1)])]
        skips, c = [channels], channels
        for level, m in enumerate(mult):
            for _ in range(depth):
                inputs.append(nn.ModuleList(layers(level, c)))
                c = m * channels
                skips.append(c)
            if level < len(mult) - 1:
                inputs.append(nn.ModuleList([Downsample(c)]))
                skips.append(c)
        self.input_blocks = nn.ModuleList(inputs)
        self.middle_block = nn.ModuleList([Residual(c, c, width), transformer(c), Residual(c, c, width)])
        outputs: list[nn.ModuleList] = []
        for level, m in reversed(list(enumerate(mult))):
            for i in range(depth + 1):
                parts = layers(level, c + skips.pop())
                c = m * channels
                outputs.append(nn.ModuleList([*parts, Upsample(c)] if level and i == depth else parts))
        self.output_blocks = nn.ModuleList(outputs)
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, 4, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, camera: Tensor, frames: int) -> Tensor:
        half = self.channels // 2
        angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], -1)) + self.camera_embed(camera)

        def run(layers: nn.Module, y: Tensor) -> Tensor:
            for layer in layers.children():
                if isinstance(layer, Residual):
                    y = layer(y, emb)
                elif isinstance(layer, Transformer):
                    y = layer(y, context, frames)
                elif isinstance(layer, Downsample):
                    y = layer.op(y)
                elif isinstance(layer, Upsample):
                    y = layer.conv(F.interpolate(y, scale_factor=2.0, mode="nearest"))
                else:
                    y = layer(y)
            return y

        saved = []
        for block in self.input_blocks:
            x = run(block, x)
            saved.append(x)
        x = run(self.middle_block, x)
        for block in self.output_blocks:
            x = run(block, torch.cat([x, saved.pop()], 1))
        return self.out(x)


@torch.no_grad()
def write_golden(
    path: Path, *, mult: tuple[int, ...], linear: bool, ternary: bool = False, seed: int = 0, **shape: Any
) -> None:
    """Write a golden file with random weights; ``ternary`` ones compress well."""
    from safetensors.torch import save_file

    heads, frames, objects, context = 2, 4, 2, 24
    generator = torch.Generator().manual_seed(seed)
    network = PlainMVDream(32, mult, context, heads, linear, **shape).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            values = torch.randn(parameter.shape, generator=generator)
            if ternary:
                values = (values * 2).round().clamp(-1, 1)
            parameter.copy_((values / math.sqrt(parameter[0].numel())).half().float())
        else:
            offset = 1.0 if name.endswith("weight") else 0.0
            spread = 0.0 if ternary else 0.1
            parameter.copy_((offset + spread * torch.randn(parameter.shape, generator=generator)).half().float())
    rows = objects * frames
    tensors = {
        "input.sample": torch.randn(rows, 4, 8, 8, generator=generator),
        "input.timestep": torch.tensor([10, 500, 981, 3] * objects),
        "input.context": torch.randn(rows, 12, context, generator=generator),
        "input.camera": torch.randn(rows, 16, generator=generator),
    }
    tensors["output.sample"] = network(*tensors.values(), frames)
    weights = {f"state_dict.model.diffusion_model.{k}": v.half() for k, v in network.state_dict().items()}
    metadata = {
        "num_frames": str(frames),
        "num_heads": str(heads),
        "style": "plain torch network of tests/plain_mvdream.py, random weights",
    }
    save_file({**tensors, **{key: value.contiguous() for key, value in weights.items()}}, path, metadata)


if __name__ == "__main__":
    plain = FIXTURE.with_suffix("")
    write_golden(plain, mult=(1,), linear=False, ternary=True)
    FIXTURE.write_bytes(gzip.compress(plain.read_bytes(), 9, mtime=0))
    plain.unlink()
