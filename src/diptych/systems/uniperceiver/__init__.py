"""Uni-Perceiver: every task is the likelihood of a target given an input, both encoded by one transformer.

"Uni-Perceiver" (CVPR 2022) and "Uni-Perceiver-MoE" (NeurIPS 2022). What is published and what is ours:
docs/systems/uniperceiver.md.
"""
