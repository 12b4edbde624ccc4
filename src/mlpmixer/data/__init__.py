"""Data sets: `open(spec)` finds out what `spec` is and returns its classes and splits.

A spec is the name of a known data set (`SETS`), `hf:NAME`, a folder of pictures (`root/class/*.jpg`, or that within
train/, val/ and test/), a folder made by `mixer pack`, a list in a .csv or .parquet file, or WebDataset shards
(`shards-{000..011}.tar`, here or behind http).
"""
