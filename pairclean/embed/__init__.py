"""Pictures and captions become vectors: `embed_source` writes them, `Embeddings` reads them."""

from .boilerplate import CaptionReader, blanked, caption_notes, sampled_captions, shared_sentences
from .device import resolve_devices, resolve_dtype
from .embed import embed_shard, embed_source
from .encoder import DEFAULT_MODEL, DEFAULT_PRETRAINED, Encoder
from .load import encoder_devices, load_encoder, weights_are_here
from .precomputed import keep_source, prepared
from .preflight import check_readable
from .store import Embeddings, ShardedArray, part_is_done, prune_parts, write_part

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_PRETRAINED",
    "CaptionReader",
    "Embeddings",
    "Encoder",
    "ShardedArray",
    "blanked",
    "caption_notes",
    "check_readable",
    "embed_shard",
    "embed_source",
    "encoder_devices",
    "keep_source",
    "load_encoder",
    "part_is_done",
    "prepared",
    "prune_parts",
    "resolve_devices",
    "resolve_dtype",
    "sampled_captions",
    "shared_sentences",
    "weights_are_here",
    "write_part",
]
