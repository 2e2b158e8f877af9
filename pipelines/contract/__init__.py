"""What every part agrees on: slots, robots, episodes, pictures, documents and errors; no Beam, TensorFlow or JAX."""
