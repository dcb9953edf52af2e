"""The `scenes` model: drawn pictures with captions, the rules that read them back, and its training."""
