"""Multimodal language models: a vision encoder, a connector, and a causal language model of transformers."""
