"""Inference engines: ways to run a finished model, in `table.py`. (`trainable` is another thing: a way to train.)"""
