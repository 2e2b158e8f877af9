"""Labels from models: requests, labelers, and checked answers."""
