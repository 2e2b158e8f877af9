"""What the RLDS reader knows of TFDS: version folders and the features of a record."""
