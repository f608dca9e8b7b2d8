"""The tables of the publication of L2RM: its networks on region features, trained and evaluated as it does.

    python -m benchmarks.paper --data DIR --set f30k --noise .2 --model both [--method l2rm] [--faithful] [--dry-run]
    python -m benchmarks.paper --generated [--clean]
    python -m benchmarks.paper --data DIR --set f30k --model SAF --clean

DIR holds the files as NCR distributes them (see `pairclean.paper.data`). `--dry-run` says which of them are missing and
where they come from. Every model has a folder of its own under `--out`; a run that was killed is resumed from its last
epoch. Results are printed beside the published sums and written to `results.json` in the folder.

`--method l2rm` without `--faithful` has this package's deviations, and takes its split from the judge: clean
probabilities of models that never saw the pair, from the mean of the regions and hashed words. `--split mixture` takes
the beta mixture on the network's own losses instead. `--weights` evaluates published checkpoints: the mean of their
similarities.

`--clean` finds the mismatched pairs among the training pairs: networks that are trained out of fold score them, and
`verdicts.parquet` in the folder has what `pairclean.clean_vectors` says of each.

`--generated` needs no data: it draws 2,000 pairs with regions and words, moves 40% of the captions, and compares; with
`--clean` it compares verdicts by the network with verdicts by vectors alone.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from pairclean import CleanedVectors, clean_vectors
from pairclean.arrays import Pairs, chunks, unit
from pairclean.embed import resolve_devices
from pairclean.embed.hog_tfidf import HogTfidf
from pairclean.execution import Progress
from pairclean.files import write_json, written_whole
from pairclean.judge import judge, learn
from pairclean.metrics.detection import auroc
from pairclean.pairs import UserError
from pairclean.paper import generated
from pairclean.paper.data import (
    RegionCaptions,
    Vocabulary,
    caption_file,
    make_noise,
    open_split,
    read_captions,
    read_noise,
    write_noise,
)
from pairclean.paper.draws import SeededDraws
from pairclean.paper.evaluation import FOLD_IMAGES, Recalls, mean, recalls, similarities
from pairclean.paper.fit import BEST, fit, load_model
from pairclean.paper.networks import Architecture, RetrievalModel
from pairclean.paper.published import load_published
from pairclean.paper.regions import RegionScorer, pooled_vectors, train_out_of_fold
from pairclean.paper.training import SCHEDULES, Settings, Training, method

NCR_DATA = "https://ncr-paper.cdn.bcebos.com/data/NCR-data.tar"
NOISE_FILES = "https://github.com/hhc1997/L2RM/tree/main/noise_index"
#: Images and captions of the usual files, by set and split.
SIZES = {
    "f30k": {"train": (29_000, 145_000), "dev": (1014, 5070), "test": (1000, 5000)},
    "coco": {"train": (113_287, 566_435), "dev": (5000, 25_000), "testall": (5000, 25_000)},
    "cc152k": {"train": (150_000, 150_000), "dev": (1000, 1000), "test": (1000, 1000)},
}
RATES = (0.2, 0.4, 0.6, 0.8)
#: Published sums of the six recalls, of the mean of an SGR and an SAF: Flickr30K and MS-COCO 1K at .2, .4, .6 and .8.
PUBLISHED = {
    "f30k": {
        "NCR": (491.1, 486.8, 468.6, 36.4),
        "BiCro": (504.7, 487.5, 466.3, 60.2),
        "RCL": (496.8, 483.4, 456.6, 378.3),
        "L2RM": (503.8, 490.5, 467.6, 404.0),
    },
    "coco": {
        "NCR": (515.0, 513.9, 503.3, 244.8),
        "BiCro": (523.2, 517.1, 505.5, 460.5),
        "RCL": (521.4, 515.3, 503.3, 475.9),
        "L2RM": (524.7, 517.7, 508.4, 482.6),
    },
    "cc152k": {"NCR": (355.6,), "BiCro": (370.2,), "RCL": (364.4,), "L2RM": (374.2,)},
}


class Missing(NamedTuple):
    """needed: whether nothing can be done without it."""

    line: str
    needed: bool = False


@dataclass(frozen=True)
class Files:
    """Where the files of a set lie."""

    data: Path
    name: str
    rate: float

    @property
    def folder(self) -> Path:
        return self.data / f"{self.name}_precomp"

    @property
    def vocabulary(self) -> Path:
        return self.data / "vocab" / f"{self.name}_precomp_vocab.json"

    @property
    def noise(self) -> Path:
        return self.data / "noise_index" / f"{self.name}_precomp_{self.rate}.npy"

    def missing(self, splits: Sequence[str]) -> list[Missing]:
        """What is missing or of another size than usual."""
        found = []
        for split in splits:
            images, captions = SIZES[self.name][split]
            path, text = self.folder / f"{split}_ims.npy", caption_file(self.folder, split)
            if not path.exists():
                size = f"{images:,} x 36 x 2048, {images * 36 * 2048 * 4 / 2**30:.1f} GiB"
                found.append(Missing(f"missing: {path}, {size}: from {NCR_DATA}", needed=True))
            elif (shape := np.load(path, mmap_mode="r").shape) != (images, 36, 2048):
                found.append(Missing(f"unusual: {path} has the shape {shape}, usually ({images}, 36, 2048)"))
            if not text.exists():
                found.append(Missing(f"missing: {text}, {captions:,} captions: from {NCR_DATA}", needed=True))
            elif (count := len(read_captions(text))) != captions:
                found.append(Missing(f"unusual: {text} has {count:,} captions, usually {captions:,}"))
        if not self.vocabulary.exists():
            found.append(Missing(f"missing: {self.vocabulary}: from {NCR_DATA}; else it is made from the captions"))
        if self.rate and not self.noise.exists():
            where = f"from {NOISE_FILES}" if self.name == "f30k" else "published for Flickr30K only"
            found.append(Missing(f"missing: {self.noise}: {where}; else it is drawn"))
        for package in ("nltk", "punkt"):
            if find_spec(package) is None:
                line = f"missing: the package {package}: pip install 'pairclean[paper]'"
                found.append(Missing(line, needed=True))
        return found

    def words(self) -> Vocabulary:
        if not self.vocabulary.exists():
            captions = [c for split in ("train", "dev") for c in read_captions(caption_file(self.folder, split))]
            Vocabulary.of(captions).write(self.vocabulary)
            print(f"{self.vocabulary} is made from the captions of train and dev")
        return Vocabulary.read(self.vocabulary)

    def noisy(self, clean: RegionCaptions, of: str, seed: int) -> RegionCaptions:
        """The training pairs with their noise, from its file; without one, it is drawn and written."""
        if not self.rate:
            return clean
        if not self.noise.exists():
            write_noise(self.noise, make_noise(clean, self.rate, "images" if of == "images" else "captions", seed))
            print(f"{self.noise} is drawn anew: {self.rate:g} of the {of} move")
        return clean.with_noise(read_noise(self.noise, clean))


class Lines(Progress):
    """A line a minute and one at the end of every epoch."""

    def start(self, stage: str, total: int | None = None) -> None:
        self.stage, self.total, self.steps, self.told = stage, total, 0, time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self.steps += steps
        if time.monotonic() - self.told > 60:
            self.told = time.monotonic()
            print(f"  {self.stage}: step {self.steps} of at most {self.total}", flush=True)

    def say(self, sentence: str) -> None:
        print(sentence, flush=True)


def judged_clean(data: RegionCaptions, texts: np.ndarray, *, seed: int, device: str) -> np.ndarray:
    """The probability of every pair to be clean, (C,), by the judge: models that never saw the pair score it.

    texts: (C, e) float, a vector of each caption.  An image's vector is the mean of its regions.
    """
    image = np.concatenate([unit(data.regions(part).mean(1).numpy()) for part in chunks(len(data.images), 4096)])
    ids: dict[bytes, int] = {}
    caption_id = np.array([ids.setdefault(caption.tobytes(), len(ids)) for caption in data.captions])
    pairs = Pairs(image.astype(np.float16)[data.image_of], texts.astype(np.float16), data.image_of, caption_id)
    rows = np.arange(len(pairs))
    learned = learn(pairs, rows, comparable=False, seed=seed, devices=[device])
    judgement = judge(pairs, rows, learned, comparable=False, seed=seed, device=device)
    if judgement.unjudged:
        raise UserError(f"the judge cannot tell the pairs apart ({judgement.unjudged}): choose --split mixture")
    # A pair without a judgement stays with the noisy ones.
    return np.nan_to_num(judgement.clean_probability, nan=0.0)


def train(
    name: str,
    faithful: bool,
    architecture: Architecture,
    data: RegionCaptions,
    dev: RegionCaptions,
    settings: Settings,
    home: Path,
    *,
    seed: int,
    device: str,
    clean: np.ndarray | None = None,
    progress: Progress | None = None,
) -> RetrievalModel:
    """Train one model, or resume its training; returns the one that was best on dev."""
    torch.manual_seed(seed)
    model = RetrievalModel(architecture).to(device)
    training: Training = method(name, faithful=faithful)(model, data, settings, SeededDraws(seed), clean)
    fit(training, dev, home, progress)
    return load_model(home / BEST).to(device)


def evaluate(models: Sequence[RetrievalModel], data: RegionCaptions, half: bool) -> dict[str, Recalls]:
    """The recalls of the mean of the models' similarities; for MS-COCO the mean of five folds, and all in one."""
    whole = sum(similarities(model, data, half=half) for model in models) / len(models)
    if len(data.images) < 5 * FOLD_IMAGES:
        return {"": recalls(whole, data.per_image)}
    n = FOLD_IMAGES
    folds = [whole[k * n : (k + 1) * n, k * n * data.per_image : (k + 1) * n * data.per_image] for k in range(5)]
    return {"1K": mean([recalls(fold, data.per_image) for fold in folds]), "5K": recalls(whole, data.per_image)}


def published(options: argparse.Namespace) -> None:
    """One row of the publication's tables."""
    rate = _rate(options)
    files, device = Files(options.data, options.set, rate), resolve_devices(options.device)[0]
    missing = files.missing(["train", "dev"] if options.clean else list(SIZES[options.set]))
    print("\n".join(line for line, _ in missing) or "every file is there")
    if options.dry_run:
        return
    if any(needed for _, needed in missing):
        raise UserError(f"files of {options.set} are missing in {options.data}")
    words = files.words()
    if options.clean:
        clean_training_pairs(options, files, words, device)
        return
    test = open_split(files.folder, "testall" if options.set == "coco" else "test", words)
    if options.weights:
        models = [_with_weights(path, words).to(device) for path in options.weights]
        print(table(options.set, rate, "weights", evaluate(models, test, options.half)))
        return
    begun = time.monotonic()
    data = files.noisy(open_split(files.folder, "train", words), options.noise_of, options.seed)
    settings = replace(SCHEDULES[options.set], noise=rate, half=options.half)
    if options.batch:
        settings = replace(settings, batch=options.batch, queue=options.batch)
    label, clean = options.method, None
    if options.faithful:
        label += "-faithful"
    elif options.method != "plain":
        label += f"-{options.split}"
        if options.split == "judge":
            texts = _in_parts(HogTfidf().encode_captions, read_captions(caption_file(files.folder, "train")))
            clean = judged_clean(data, texts, seed=options.seed, device=device)
            print(f"the judge calls {(clean >= 0.5).mean():.1%} of the pairs clean")
    home = options.out / f"{options.set}-{rate}-{label}-seed{options.seed}"
    dev = open_split(files.folder, "dev", words)
    models = []
    for module in ("SGR", "SAF") if options.model == "both" else (options.model,):
        of = Architecture(words=len(words), module=module, image_dim=data.images.shape[2], regions=data.images.shape[1])
        common: dict[str, Any] = {"seed": options.seed, "device": device, "clean": clean, "progress": Lines()}
        models.append(train(options.method, options.faithful, of, data, dev, settings, home / module, **common))
    found = evaluate(models, test, options.half)
    seconds = time.monotonic() - begun
    print(table(options.set, rate, f"{label} {options.model}", found))
    print(f"{seconds / 3600:.2f} h in this process, at most {peak_gib(device)}")
    results = {
        "options": {key: str(value) for key, value in vars(options).items()},
        "settings": asdict(settings),
        "recalls": {key or "test": {**asdict(of), "rsum": of.rsum} for key, of in found.items()},
        "seconds": seconds,
    }
    write_json(home / f"results-{options.model}.json", results)


def _rate(options: argparse.Namespace) -> float:
    """The noise to plant: what is to be cleaned, and CC152K, have noise of their own."""
    if options.set == "cc152k":
        return 0.0
    return float(options.noise if options.noise is not None else 0.0 if options.clean else 0.2)


def clean_training_pairs(options: argparse.Namespace, files: Files, words: Vocabulary, device: str) -> None:
    """Verdicts of the training pairs, by networks that were trained out of fold."""
    right, dev = (open_split(files.folder, split, words) for split in ("train", "dev"))
    data = files.noisy(right, options.noise_of, options.seed)
    settings = replace(SCHEDULES[options.set], noise=files.rate, half=options.half)
    regions, d = data.images.shape[1:]
    of = Architecture(words=len(words), module=options.model, image_dim=d, regions=regions)
    home = options.out / f"{options.set}-{files.rate}-clean-{options.model}-folds{options.folds}-seed{options.seed}"
    common: dict[str, Any] = {"folds": options.folds, "seed": options.seed, "device": device, "progress": Lines()}
    made = train_out_of_fold(data, dev, home, of, settings, name=options.method, **common)
    captions = read_captions(caption_file(files.folder, "train"))
    found = clean_vectors(
        *pooled_vectors(data),
        captions=captions,
        image_ids=data.image_of,
        comparable=False,  # even if images and captions have vectors of one length
        scorer=made.scorers,
        fold=made.fold,
        seed=options.seed,
    )
    with written_whole(home / "verdicts.parquet") as file:
        pq.write_table(found.verdicts, file)
    print(f"{home / 'verdicts.parquet'}: {found.verdicts['verdict'].value_counts().to_pylist()}")
    print(f"mismatch rate {found.mismatch_rate}; {peak_gib(device)}")


def _with_weights(path: Path, words: Vocabulary) -> RetrievalModel:
    model = load_published(path)
    if (known := model.architecture.words) != len(words):
        raise UserError(f"{path} was trained with {known} words, and the vocabulary has {len(words)}: choose its own")
    return model


def _in_parts(encode: Callable[[list[str]], np.ndarray], captions: list[str]) -> np.ndarray:
    return np.concatenate([encode(captions[part]).astype(np.float16) for part in chunks(len(captions), 8192)])


def table(name: str, rate: float, label: str, found: dict[str, Recalls]) -> str:
    """The rows of the publication's tables: measured, and below it what is published as a sum."""
    rows = [
        "| | image to text R@1 | R@5 | R@10 | text to image R@1 | R@5 | R@10 | rSum |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, of in found.items():
        values = " | ".join(f"{value:.1f}" for value in (*of.six, of.rsum))
        rows.append(f"| {' '.join([label, key]).strip()} | {values} |")
    column = 0 if name == "cc152k" else RATES.index(rate) if rate in RATES else None
    if column is not None:
        rows += [f"| {other}, published | | | | | | | {sums[column]} |" for other, sums in PUBLISHED[name].items()]
    return "\n".join(rows)


def peak_gib(device: str) -> str:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gpu = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU" if device.startswith("cuda") else ""
    return f"{own:.1f} GiB resident, mapped files included{gpu}"


# --- drawn pairs ------------------------------------------------------------------------------------------------------

PAIRS, MOVED, DEV, TEST = 2000, 0.4, 200, 500
SMALL = replace(Settings(), warm_up=12, epochs=8, decay=5, batch=16, queue=16, rate=3e-3, noise=MOVED)
#: For the clean part: more epochs, so that they have as many steps as those of all pairs.
SMALL_CLEAN = replace(SMALL, warm_up=20, epochs=13, decay=8)


def compare(seed: int, home: Path) -> dict[str, float]:
    """rSum on the test pairs, by how the model was trained."""
    right = generated.draw(PAIRS, seed, copies=True)
    dev, test = generated.draw(DEV, 1000 + seed), generated.draw(TEST, 2000 + seed)
    noisy = right.with_noise(make_noise(right, MOVED, "captions", seed))
    kept = np.flatnonzero(noisy.image_of == right.image_of)
    clean_part = RegionCaptions(right.images, [right.captions[row] for row in kept], right.image_of[kept])
    texts = np.stack([np.bincount(caption, minlength=generated.WORDS) for caption in noisy.captions])
    judged = judged_clean(noisy, unit(texts.astype(np.float32)), seed=seed, device="cpu")
    area = auroc(1 - judged, noisy.image_of != right.image_of)
    called, are = (judged >= 0.5).mean(), len(kept) / PAIRS
    print(f"seed {seed}: the judge calls {called:.1%} of the pairs clean, and {are:.1%} are; AUROC {area:.3f}")
    cases: dict[str, tuple[str, bool, RegionCaptions, Settings, np.ndarray | None]] = {
        "plain": ("plain", False, noisy, SMALL, None),
        "L2RM, faithful": ("l2rm", True, noisy, SMALL, None),
        "L2RM, ours": ("l2rm", False, noisy, SMALL, judged),
        "clean part only": ("plain", False, clean_part, SMALL_CLEAN, None),
        "RCAR": ("rcar", False, noisy, SMALL, judged),
    }
    found = {}
    for label, (name, faithful, data, settings, clean) in cases.items():
        begun = time.process_time()
        model = train(
            name,
            faithful,
            generated.architecture("SGR"),
            data,
            dev,
            settings,
            home / f"{seed}-{label}",
            seed=seed,
            device="cpu",
            clean=clean,
        )
        found[label] = recalls(similarities(model, test), 1).rsum
        print(f"seed {seed}, {label}: rSum {found[label]:.1f}, {time.process_time() - begun:.0f} s of CPU", flush=True)
    return found


def compare_all(seeds: int, home: Path) -> None:
    by_seed = [compare(seed, home) for seed in range(seeds)]
    print(f"| training | rSum, seeds 0 to {seeds - 1} | mean |\n|---|---|---|")
    for label in by_seed[0]:
        sums = [found[label] for found in by_seed]
        print(f"| {label} | {' '.join(f'{value:.1f}' for value in sums)} | {np.mean(sums):.1f} |")


#: No rematch in these data is as sure as the default asks for, by any score.
LEAST_SURE = 0.4
CLEANED = ("AUROC", "rate", "low", "high", "precision", "recall", "rematches", "right")


def compare_verdicts(seed: int, home: Path) -> dict[str, list[float]]:
    """The figures named in CLEANED, by how the pairs were judged."""
    right, dev = generated.draw(PAIRS, seed, copies=True), generated.draw(DEV, 1000 + seed)
    noisy = right.with_noise(make_noise(right, MOVED, "captions", seed))
    captions = [" ".join(map(str, words)) for words in noisy.captions]
    architecture = generated.architecture("SAF")
    made = train_out_of_fold(noisy, dev, home / f"clean-{seed}", architecture, SMALL, seed=seed)
    whole = train("l2rm", False, architecture, noisy, dev, SMALL, home / f"clean-{seed}-all", seed=seed, device="cpu")
    once = RegionScorer(whole, noisy)
    pooled = pooled_vectors(noisy)
    options: dict[str, Any] = {"captions": captions, "image_ids": noisy.image_of, "comparable": False, "seed": seed}
    options["min_precision"] = LEAST_SURE
    cases: dict[str, Callable[[], CleanedVectors]] = {
        "pooled vectors alone": lambda: clean_vectors(*pooled, **options),
        "networks out of fold": lambda: clean_vectors(*pooled, scorer=made.scorers, fold=made.fold, **options),
        "one network, trained on all": lambda: clean_vectors(*pooled, scorer=once, **options),
    }
    found = {}
    for label, clean in cases.items():
        begun = time.process_time()
        found[label] = _figures(clean(), noisy.image_of, right.image_of)
        print(f"seed {seed}, {label}: {time.process_time() - begun:.0f} s of CPU after training", flush=True)
    return found


def _figures(found: CleanedVectors, shown: np.ndarray, own: np.ndarray) -> list[float]:
    """shown, own: (C,) the image that each caption is shown with, and the one that it describes."""
    wrong = shown != own
    flagged = np.array(found.verdicts["is_noisy"].to_pylist(), bool)
    probability = np.nan_to_num(found.judgement.clean_probability, nan=0.5)
    partner = found.rematches.partner
    given = partner >= 0
    rate = [float(found.mismatch_rate[key] or 0) for key in ("estimate", "low", "high")]
    caught = float((flagged & wrong).sum())
    of_flags = [caught / max(1, flagged.sum()), caught / wrong.sum()]
    right = int((own[partner[given]] == shown[given]).sum())
    return [auroc(-probability, wrong), *rate, *of_flags, int(given.sum()), right]


def compare_all_verdicts(seeds: int, home: Path) -> None:
    by_seed = [compare_verdicts(seed, home) for seed in range(seeds)]
    print(f"| judged by | seed | {' | '.join(CLEANED)} |\n|{'---|' * (2 + len(CLEANED))}")
    for label in by_seed[0]:
        for seed, found in enumerate(by_seed):
            *shares, given, right = found[label]
            print(f"| {label} | {seed} | {' | '.join(f'{x:.3f}' for x in shares)} | {given:.0f} | {right:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with f30k_precomp, vocab and noise_index")
    parser.add_argument("--set", choices=list(SIZES))
    parser.add_argument("--noise", type=float, help="the rate, .2 unless --clean; CC152K has its own noise")
    parser.add_argument(
        "--noise-of", choices=["images", "captions"], default="images", help="what moves if it is drawn"
    )
    parser.add_argument("--model", choices=["SGR", "SAF", "both"], default="both")
    parser.add_argument("--method", choices=["plain", "l2rm", "rcar"], default="l2rm")
    parser.add_argument("--faithful", action="store_true", help="L2RM exactly as published")
    parser.add_argument("--weights", type=Path, nargs="+", help="evaluate published checkpoints instead of training")
    parser.add_argument("--split", choices=["judge", "mixture"], default="judge", help="which pairs are clean, if ours")
    parser.add_argument("--batch", type=int, help="another batch and queue than the published 128")
    parser.add_argument("--half", action="store_true", help="compute similarities in bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("paper-runs"))
    parser.add_argument(
        "--clean", action="store_true", help="find the mismatched pairs, by networks trained out of fold"
    )
    parser.add_argument("--folds", type=int, default=2, help="networks that --clean trains, each without one fold")
    parser.add_argument("--dry-run", action="store_true", help="only say which files are missing")
    parser.add_argument("--generated", action="store_true", help="compare on drawn pairs, without any data")
    parser.add_argument("--seeds", type=int, default=3, help="of --generated")
    options = parser.parse_args()
    if options.generated:
        torch.set_num_threads(1)
        (compare_all_verdicts if options.clean else compare_all)(options.seeds, options.out / "generated")
    elif options.data is None or options.set is None:
        parser.error("name --data and --set, or --generated")
    else:
        try:
            method(options.method, faithful=options.faithful)  # before anything is read
            if options.clean and (options.model == "both" or options.faithful or options.weights):
                raise UserError("--clean takes --model SGR or SAF, and neither --faithful nor --weights")
            published(options)
        except UserError as error:
            parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
