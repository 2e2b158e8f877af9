"""The conversion: plan, Beam graph, a worker's part, manifest and append."""
