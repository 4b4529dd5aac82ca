"""The folders that models are published from: weights, plots, figures and the card, which is their report."""
