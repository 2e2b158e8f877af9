"""One process of several that draw one stream: assembles whole batches over all devices and says what they hold.

python stream_process.py SPEC CACHE COORDINATOR COUNT INDEX BATCH START STOP
"""

import hashlib
import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from mixtures.mixture import open_mixture
from mixtures.stream.batches import Stream
from trainers.hosts import join
from trainers.mesh import build_mesh, place_batch

ARRAYS = ("position", "images", "camera_mask", "state", "action", "chunk_mask")


def main() -> None:
    spec, cache, coordinator, *numbers = sys.argv[1:]
    count, index, batch_size, start, stop = map(int, numbers)
    join(coordinator, count, index)
    mesh = build_mesh(1, batch_size=batch_size)
    mixture, found = open_mixture(spec, cache=cache), []
    with Stream(mixture, batch_size=batch_size, host_index=index, host_count=count) as stream:
        for batch in stream.batches(start=start, stop=stop):
            assert len(batch.names) == batch_size // count
            whole = place_batch(mesh, {name: getattr(batch, name).astype(np.float32) for name in ARRAYS})
            gathered = multihost_utils.process_allgather(whole, tiled=True)
            found.append({name: digest(gathered[name]) for name in ARRAYS})
            found[-1]["mean"] = round(float(jax.jit(lambda images: images.mean())(whole["images"])), 4)
    print(json.dumps(found))


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()


if __name__ == "__main__":
    main()
