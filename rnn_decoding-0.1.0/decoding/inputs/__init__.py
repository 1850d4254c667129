"""What the caller gave, checked once: options, prompts, sources, contexts and latents become settings and requests."""
