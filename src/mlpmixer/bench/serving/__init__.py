"""Benchmark of `mixer serve`: capacity beside LitServe, overload, soak, attacks, and what an idle service costs."""
