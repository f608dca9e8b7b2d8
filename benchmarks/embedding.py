"""How fast is `embed`?  python -m benchmarks.embedding [MODEL] [--device cpu|cuda] [--dtype auto] [--pictures 256]

On a CPU: against a straightforward open_clip loop over the same files (float32, batches of 64, a DataLoader with two
workers). On a GPU: against the tower alone, on random tensors that are there already, same precision and batches.
MODEL is a name that open_clip knows, with random weights, or local-dir:PATH. Pictures are drawn scenes of 512x384.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import open_clip
import torch
from PIL import Image

from benchmarks.decode import jpegs
from benchmarks.timing import in_turn
from pairclean.embed.embed import BatchSize, embed_shard
from pairclean.embed.openclip import OpenClip
from pairclean.pairs import Row, Shard


class Scenes:
    """A source of as many distinct pictures as asked for."""

    def __init__(self, count: int):
        drawn = jpegs((512, 384))
        # A comment in the file makes each one distinct, so that none is left out as a copy.
        self.data = [
            drawn[i % len(drawn)][:2] + b"\xff\xfe\x00\x06" + i.to_bytes(4, "big") + drawn[i % len(drawn)][2:]
            for i in range(count)
        ]
        self.shard = Shard("scenes", "scenes", count, "")

    def rows(self, shard: Shard, *, images: bool = True):  # type: ignore[no-untyped-def]
        for i, data in enumerate(self.data):
            yield Row(i, str(i), data, (f"scene number {i}",))


class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, data: list[bytes], transform: object):
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(io.BytesIO(self.data[i])))  # type: ignore[operator, no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="ViT-B-32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pictures", type=int, default=256)
    options = parser.parse_args()
    scenes = Scenes(options.pictures)
    with tempfile.TemporaryDirectory() as folder:
        model, pretrained = options.model, None
        if not model.startswith("local-dir:"):
            network = open_clip.create_model(model)
            pretrained = f"{folder}/weights.pt"
            torch.save(network.state_dict(), pretrained)
        encoder = OpenClip(model, pretrained, device=options.device, dtype=options.dtype)
        plain, _, transform = open_clip.create_model_and_transforms(model, pretrained=pretrained)
        plain.eval().to(options.device)
        tokenize = open_clip.get_tokenizer(model)

        def ours() -> None:
            embed_shard(scenes, scenes.shard, encoder, Path(folder) / "out", "x")  # type: ignore[arg-type]

        @torch.inference_mode()
        def loop() -> None:
            loader = torch.utils.data.DataLoader(Files(scenes.data, transform), batch_size=64, num_workers=2)
            start = 0
            for pixels in loader:
                plain.encode_image(pixels, normalize=True)
                captions = [f"scene number {i}" for i in range(start, start + len(pixels))]
                plain.encode_text(tokenize(captions), normalize=True)
                start += len(pixels)

        side = plain.visual.preprocess_cfg["size"]
        side = side if isinstance(side, int) else max(side)
        batch = BatchSize.start(options.device).value
        pixels = torch.rand(batch, 3, side, side).to(options.device, encoder._dtype)

        @torch.inference_mode()
        def tower() -> None:
            for _ in range(0, len(scenes.data), batch):
                encoder._network.encode_image(pixels)
            torch.cuda.synchronize()

        on_gpu = options.device.startswith("cuda")
        mine, other, ratio = in_turn(ours, tower if on_gpu else loop, 3)
    against = "the tower alone" if on_gpu else "open_clip loop"
    print(f"| model | device | precision | ours, pairs/s | {against}, pairs/s | {against} / ours, in time |")
    print("|---|---|---|---|---|---|")
    precision = str(encoder._dtype).removeprefix("torch.")
    rates = " | ".join(f"{len(scenes.data) / s:.0f}" for s in (mine, other))
    print(f"| {options.model.split('/')[-1]} | {options.device} | {precision} | {rates} | {ratio} |")


if __name__ == "__main__":
    main()
