"""SOHO: a whole picture through a CNN, a visual dictionary learned on the way, one joint transformer.

"Seeing Out of tHe bOx" (CVPR 2021). What is published and what is ours: docs/systems/soho.md.
"""
