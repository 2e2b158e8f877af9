"""The arrays that the model takes: on the host or on a device.

Batches come from numpy and are sent to the device by the first compiled function that reads them, so that a function
which insisted on one kind would be called with the other all the time.
"""

import jax
import numpy as np

Array = jax.Array | np.ndarray
