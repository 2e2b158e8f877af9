"""DistilBERT's arrays as Hugging Face names them, of any size, drawn at random."""

import numpy as np


def huggingface_distilbert(
    rng: np.random.Generator, *, width: int = 16, mlp: int = 24, vocab: int = 20, positions: int = 8, depth: int = 2
) -> dict[str, np.ndarray]:
    """All arrays of the encoder by name, float32; the defaults are the sizes of `tests/model/test_small.py`."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocab, width),
        "embeddings.position_embeddings.weight": (positions, width),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(depth):
        layer = f"transformer.layer.{i}."
        norms += [layer + "sa_layer_norm", layer + "output_layer_norm"]
        linears = {f"attention.{name}_lin": (width, width) for name in ("q", "k", "v", "out")}
        for name, shape in (linears | {"ffn.lin1": (mlp, width), "ffn.lin2": (width, mlp)}).items():
            shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = shape, shape[:1]
    for name in norms:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    return {f"distilbert.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
