"""The parts of a Mixer's layer for Hopper GPUs, written in Triton.

What is outside the two products of token mixing and channel mixing happens where their numbers are anyway: LayerNorm,
biases, the GELU, the skip, and rounding to 8 bits. Tables are (rows, channels) in bfloat16, where a row is a token of a
image; sums are float32.

With TRITON_INTERPRET=1 all of it runs on CPU tensors, slowly: that is how it is tested where there is no GPU.
"""
