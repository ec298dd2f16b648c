"""Figures with their intervals: of answers, of risks, of masks, of words, of what is made."""
