"""How fast do JPEGs become what a model takes?  python -m benchmarks.decode

Against open_clip's own transform over Pillow, one thread each, on drawn scenes scaled to the sizes; at 224 pixels.
`exact` is `--exact-preprocessing`. Then threads: pictures a second by one and by all cores.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from benchmarks.timing import in_turn
from pairclean.embed.decode import decode
from pairclean.embed.embed import available_cores
from pairclean.embed.resizing import by_pillow, by_torchvision
from pairclean.synthetic.scenes import draw_scenes

PICTURES, SIDE = 32, 224
MODEL = "ViT-B-32"


def jpegs(size: tuple[int, int]) -> list[bytes]:
    """Scenes with photographic noise: flat areas would decode faster than photographs do."""
    rng = np.random.default_rng(0)
    out = []
    for scene in draw_scenes(PICTURES, 0):
        picture = Image.open(io.BytesIO(scene.image)).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(picture, np.int16) + rng.normal(0, 6, (size[1], size[0], 3)).astype(np.int16)
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        out.append(file.getvalue())
    return out


def main() -> None:
    transform = image_transform_v2(PreprocessCfg(size=SIDE), is_train=False)
    *resizing, _, _ = transform.transforms
    fast, plain = by_torchvision(resizing), by_pillow(resizing)
    assert fast is not None

    def ours(data: bytes) -> np.ndarray:
        return fast(decode(data, 2 * SIDE))

    def exact(data: bytes) -> np.ndarray:
        return plain(decode(data))

    def theirs(data: bytes) -> object:
        return transform(Image.open(io.BytesIO(data)))

    print(
        "| JPEG | ours, pictures/s | open_clip, pictures/s | ours / open_clip | ours / exact | exact / open_clip "
        "| all cores / one |"
    )
    print("|---|---|---|---|---|---|---|")
    for size in ((512, 384), (1280, 960)):
        data = jpegs(size)
        mine, other, ratio = in_turn(lambda d=data: [*map(ours, d)], lambda d=data: [*map(theirs, d)])
        _, _, to_exact = in_turn(lambda d=data: [*map(ours, d)], lambda d=data: [*map(exact, d)])
        _, _, of_exact = in_turn(lambda d=data: [*map(exact, d)], lambda d=data: [*map(theirs, d)])
        with ThreadPoolExecutor(available_cores()) as pool:
            _, _, scaling = in_turn(lambda d=data, p=pool: [*p.map(ours, d)], lambda d=data: [*map(ours, d)])
        print(
            f"| {size[0]}x{size[1]} | {PICTURES / mine:.0f} | {PICTURES / other:.0f} | {ratio} | {to_exact} "
            f"| {of_exact} | {scaling} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
