"""Checkpoints of the published code."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..pairs import UserError
from .networks import Architecture, RetrievalModel


def architecture_of(options: Mapping[str, Any]) -> Architecture:
    """The architecture that the options of the published code describe."""
    return Architecture(
        words=int(options["vocab_size"]),
        module="SGR" if str(options["module_name"]) == "SGR" else "SAF",
        image_dim=int(options["img_dim"]),
        word_dim=int(options["word_dim"]),
        joint_dim=int(options["embed_size"]),
        similarity_dim=int(options["sim_dim"]),
        sgr_steps=int(options["sgr_step"]),
        gru_layers=int(options["num_layers"]),
        bidirectional=bool(options["bi_gru"]),
        norm_images=not options["no_imgnorm"],
        norm_texts=not options["no_txtnorm"],
    )


def load_published(path: Path) -> RetrievalModel:
    """The model of a checkpoint (`model_best.pth.tar`), in eval mode, on the CPU.

    The file holds the options as an argparse namespace; nothing else than that and tensors is unpickled.
    Raises UserError if it is no such checkpoint.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        model = RetrievalModel(architecture_of(vars(content["opt"])))
        model.load_state_dict(content["net"])
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is no checkpoint of L2RM's code: it should have its options and weights") from error
    return model.eval()
