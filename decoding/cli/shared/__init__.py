"""Code that several commands share: their parser, the options of strategies and of loading, prompts, pictures."""
