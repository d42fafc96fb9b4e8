"""Helpers of the book *Finetuning Large Language Models*."""

from chapterlib.quiet import hide_known_noise

__version__ = "0.1.0"

hide_known_noise()
