"""SNP-S3: one text network shared as text and cross-modal encoder, for video and text.

"SNP-S3: Shared Network Pre-training and Significant Semantic Strengthening for Various Video-Text Tasks"
(IEEE T-CSVT 2023). What is published and what is ours: docs/systems/snps3.md.
"""
