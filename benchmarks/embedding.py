"""How fast is `embed`?  python -m benchmarks.embedding [MODEL] [--device cpu|cuda] [--dtype auto] [--pictures N]

On a CPU: against a straightforward open_clip loop over the same files (float32, batches of 64, a DataLoader with two
workers); `tower busy` is the share of our time in which one of the two towers computes, and the cosine compares our
vectors with the loop's. On a GPU: against the two towers alone, on random input that is there already, same precision
and batches. `decoding alone` is what the cores can decode and resize, so the most that any tower could be given.
MODEL is a name that open_clip knows, with random weights, or local-dir:PATH. Pictures are drawn scenes of 512x384, and
captions have some 20 tokens.
"""

from __future__ import annotations

import argparse
import io
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image

from benchmarks.decode import jpegs
from benchmarks.timing import in_turn
from pairclean.embed import Embeddings, embed_source
from pairclean.embed.decode import decode
from pairclean.embed.embed import BatchSize, threads
from pairclean.embed.openclip import OpenClip
from pairclean.execution import available_cores, single_thread
from pairclean.pairs import Row, Shard
from pairclean.synthetic.scenes import draw_scenes

SHARD = 5_000
RUNS = 3


class Scenes(torch.utils.data.Dataset):
    """As many distinct pictures as asked for: for `embed` a source, for open_clip's loop a data set."""

    def __init__(self, count: int, transform: Callable[[Image.Image], torch.Tensor]):
        self._drawn, self._count, self._transform = jpegs((512, 384)), count, transform
        self._captions = [scene.caption for scene in draw_scenes(len(self._drawn), 0)]
        starts = range(0, count, SHARD)
        self.shards = [Shard(f"{start:06}", "", min(SHARD, count - start), "") for start in starts]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> tuple[torch.Tensor, str]:
        return self._transform(Image.open(io.BytesIO(self.file(i)))), self.caption(i)

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        for row in range(shard.rows):
            i = int(shard.name) + row
            yield Row(row, str(i), self.file(i), (self.caption(i),))

    def file(self, i: int) -> bytes:
        """A comment in it makes each file distinct, so that none is left out as a copy."""
        data = self._drawn[i % len(self._drawn)]
        return data[:2] + b"\xff\xfe\x00\x06" + i.to_bytes(4, "big") + data[2:]

    def caption(self, i: int) -> str:
        return f"{self._captions[i % len(self._captions)]} {i}"


class Busy:
    """The seconds that an encoder's towers have computed."""

    def __init__(self, encoder: OpenClip):
        self.seconds = 0.0
        for name in ("_image_tower", "_text_tower"):
            setattr(encoder, name, self._timed(getattr(encoder, name)))

    def _timed(self, tower: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def timed(batch: torch.Tensor) -> torch.Tensor:
            begun = time.perf_counter()
            vectors = tower(batch)
            self.seconds += time.perf_counter() - begun
            return vectors

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="ViT-B-32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pictures", type=int, help="256 on a CPU, 20,000 on a GPU")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    count = options.pictures or (20_000 if on_gpu else 256)
    logging.disable(logging.WARNING)  # open_clip's, that weights are random
    with tempfile.TemporaryDirectory() as folder:
        model, pretrained = options.model, None
        if not model.startswith("local-dir:"):
            pretrained = f"{folder}/weights.pt"
            torch.save(open_clip.create_model(model).state_dict(), pretrained)
        encoder = OpenClip(model, pretrained, device=options.device, dtype=options.dtype)
        plain, _, transform = open_clip.create_model_and_transforms(model, pretrained=pretrained)
        scenes, root, attempts = Scenes(count, transform), Path(folder) / "out", itertools.count()

        def ours() -> None:
            attempt = str(next(attempts))  # as a fingerprint, so that nothing is done already
            embed_source(scenes, [options.device], lambda _: encoder, root, lambda _: attempt)  # type: ignore[arg-type]

        precision = str(encoder._dtype).removeprefix("torch.")
        setting = (
            f"| {options.model.split('/')[-1]} | {options.device} | {precision} | {decoding(scenes, encoder):.0f} |"
        )
        if on_gpu:
            mine, other, share = in_turn(ours, lambda: towers(encoder, scenes), RUNS)
            print("| model | device | precision | decoding alone, pictures/s | ours, pairs/s | towers alone | share |")
            print(f"|---|---|---|---|---|---|---|\n{setting} {count / mine:.0f} | {count / other:.0f} | {share} |")
            return
        busy = Busy(encoder)
        mine, other, ratio = in_turn(ours, lambda: loop(plain, open_clip.get_tokenizer(model), scenes), RUNS)
        busy.seconds, begun = 0.0, time.perf_counter()
        ours()
        share = f"{busy.seconds / (time.perf_counter() - begun):.0%}"
        found = Embeddings.open(root, [shard.name for shard in scenes.shards])
        theirs = loop(plain, open_clip.get_tokenizer(model), scenes)
        least = " ".join(
            f"{(f[:] * v).sum(1).min():.4f}" for f, v in zip((found.image, found.text), theirs, strict=True)
        )
        print(
            "| model | device | precision | decoding alone, pictures/s | ours, pairs/s | open_clip loop | "
            "ours / loop | tower busy | least cosine, picture and caption |\n|---|---|---|---|---|---|---|---|---|"
        )
        print(f"{setting} {count / mine:.1f} | {count / other:.1f} | {ratio} | {share} | {least} |")


def decoding(scenes: Scenes, encoder: OpenClip) -> float:
    """Pictures a second that all cores decode and resize."""
    files = [scenes.file(i) for i in range(32 * available_cores())]
    with threads(available_cores(), "decode", single_thread) as pool:
        for _ in range(2):  # the first time warms up
            begun = time.perf_counter()
            list(pool.map(lambda data: encoder.prepare(decode(data, encoder.least_side)), files))
    return len(files) / (time.perf_counter() - begun)


@torch.inference_mode()
def towers(encoder: OpenClip, scenes: Scenes) -> None:
    """As many pictures and captions as there are, in full batches: random pixels, and tokens that are there already."""
    size = encoder._network.visual.preprocess_cfg["size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    batch = BatchSize.start(encoder.device).value
    pixels = torch.rand(batch, 3, *sides, device=encoder.device, dtype=encoder._dtype)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    tokens = encoder._tokens([scenes.caption(i) for i in range(batch)]).to(encoder.device)
    for _ in range(round(len(scenes) / batch)):
        encoder._network.encode_image(pixels)
        encoder._text_tower(tokens)
    torch.cuda.synchronize()


@torch.inference_mode()
def loop(network: open_clip.CLIP, tokenize: Callable[[list[str]], torch.Tensor], scenes: Scenes) -> list[np.ndarray]:
    """What one would write with open_clip; the vectors of pictures and captions."""
    network.eval()
    image, text = [], []
    for pixels, captions in torch.utils.data.DataLoader(scenes, batch_size=64, num_workers=2):
        image.append(network.encode_image(pixels, normalize=True).numpy())
        text.append(network.encode_text(tokenize(captions), normalize=True).numpy())
    return [np.concatenate(image), np.concatenate(text)]


if __name__ == "__main__":
    main()
