"""Bundled names, folders and hub ids -> models, tokenizers, stop ids, shared vocabulary."""
