"""Align language models on PaddlePaddle: SFT, reward models, PPO."""

__version__ = "0.1.0"
