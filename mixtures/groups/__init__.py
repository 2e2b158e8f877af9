"""The groups of a mixture: shares, filters, samples."""
