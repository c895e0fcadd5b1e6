"""Supervised fine-tuning on transcripts, which gives reinforcement learning a start."""
