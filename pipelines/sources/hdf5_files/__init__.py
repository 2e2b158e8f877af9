"""HDF5 files of every dialect: opened in one way, their arrays, pictures and words."""
