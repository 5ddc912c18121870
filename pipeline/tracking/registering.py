"""Register an arm's best encoder in MLflow: a program that needs none of our code, and the export for timm beside it.

B images, (h, w) the encoder's size in pixels, D features.
"""

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from config.params import load_params
from images.augmentation import normalise
from models.vit import VisionTransformer
from pipeline.exporting import export
from pipeline.tracking import registry
from shards.files import sha256_of
from training.encoders import WEIGHTS, load_encoder

REQUIREMENTS = ("mlflow", "numpy", "torch")


class Features(torch.nn.Module):
    """`training.encoders.features` of all patches as a module: pixels (B, 3, h, w) uint8 -> (B, D) fp32."""

    def __init__(self, encoder: VisionTransformer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder.encode(normalise(pixels.float() / 255))[:, 1:].mean(dim=1)


def register(arm: str) -> str:
    """Register the arm's best encoder; returns a line with its version, new or existing.

    Raises ValueError as `choose`, `check_recorded` and `source_run` of `pipeline.tracking.registry` do, and for a lost server.
    """
    params = load_params()
    choice = registry.choose(arm, params)
    registry.check_recorded(choice)
    weights = Path("pretrained") / choice.job
    digest = sha256_of(weights / WEIGHTS)
    known = registry.known_version(choice, digest)
    if known is not None:
        registry.make_champion(choice, known)
        return f"models:/{choice.model}/{known}: has the weights of {choice.job} already"
    run = registry.source_run(choice)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / registry.ARTIFACT
        write_program(load_encoder(weights), folder, run_id=run.info.run_id)
        export(choice.job, "timm", folder / "timm", params)
        added = registry.add_version(choice, digest, run, folder)
    registry.make_champion(choice, added)
    among = ", ".join(map(str, choice.among))
    return (
        f"models:/{choice.model}/{added}: {choice.job}, best {registry.MEASURE} {choice.accuracy:.4f} on test "
        f"of seeds {among}; run {run.info.run_id}"
    )


def write_program(encoder: VisionTransformer, folder: Path, *, run_id: str) -> None:
    """Write the frozen encoder on the CPU as an MLflow model into the new `folder`: `Features` for any number of images.

    The format is torch.export's, a graph and raw tensors. Its only pickle is the example of an input, a tensor, which torch
    reads with `weights_only`.
    """
    import mlflow.pytorch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    size = encoder.image_size
    pixels = torch.zeros(2, 3, *size, dtype=torch.uint8)
    mlflow.pytorch.save_model(
        Features(encoder),
        str(folder),
        mlflow_model=Model(registry.ARTIFACT, run_id),
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, 3, *size))]),
            Schema([TensorSpec(np.dtype(np.float32), (-1, encoder.width))]),
        ),
        input_example=pixels.numpy(),
        # Otherwise MLflow starts a process that loads the model and watches its imports.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        serialization_format="pt2",
    )
    # MLflow's own trace makes the number of images a constant wherever len() is called, and keeps this machine's paths.
    program = folder / "data" / "model.pt2"
    assert program.is_file(), f"MLflow writes another file than {program}"
    torch.export.save(_traced(Features(encoder), pixels), program)


def _traced(module: torch.nn.Module, pixels: torch.Tensor) -> torch.export.ExportedProgram:
    """The graph of `module` for any number of images, without paths and lines of its code."""
    any_number = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (pixels,), dynamic_shapes=any_number, strict=True)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
