"""pi0 in JAX: SigLIP, Gemma with an action expert, and flow matching."""
